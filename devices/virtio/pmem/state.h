// Saved state of a virtio persistent memory device (src/hypervisor/snapshot/FORMAT.md).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace vmm::virtio {

// Where the guest has it, and which files it has read there.
struct PmemState {
  static constexpr std::string_view kKind = "virtio-pmem";
  static constexpr std::uint32_t kVersion = 1;
  std::uint64_t start = 0;  // guest address
  std::uint64_t size = 0;   // bytes
  // Of the files, in their order: bytes, and when each was changed (ns since 1970). What a slot has
  // is not compared.
  std::vector<std::uint64_t> sizes;
  std::vector<std::int64_t> modified;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, start);
    archive(2, size);
    archive(3, sizes);
    archive(4, modified);
  }
};

}  // namespace vmm::virtio
