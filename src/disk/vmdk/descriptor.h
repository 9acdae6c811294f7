// The descriptor of a VMDK whose extents are flat files: a text that says of which files, one
// behind the other, a disk is made ("Virtual Disk Format 5.0", VMware, "The Disk DescriptorFile").
//
//   # Disk DescriptorFile
//   version=1
//   CID=fffffffe
//   parentCID=ffffffff
//   createType="twoGbMaxExtentFlat"
//   RW 2048 FLAT "metadata.erofs" 0
//   RW 409600 FLAT "/var/lib/layers/base.erofs" 0
//
// QEMU passes over extents that are not RW and FLAT without a word; here they are refused.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace vmm::disk::vmdk {

inline constexpr std::size_t kMaxDescriptor = 1u << 20;  // bytes
inline constexpr std::size_t kMaxExtents = 1024;

struct Extent {
  std::string path;          // as it stands there
  std::uint64_t offset = 0;  // in the file, bytes
  std::uint64_t length = 0;  // bytes
  friend bool operator==(const Extent&, const Extent&) = default;
};

// At least one extent; all together at most kMaxDiskSize. Errors say which line is wrong.
Result<std::vector<Extent>> parse_descriptor(std::string_view text);

}  // namespace vmm::disk::vmdk
