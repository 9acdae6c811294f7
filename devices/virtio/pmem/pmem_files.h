// PmemFiles: the files whose bytes a persistent memory device has, one behind the other, open and
// locked as those of a disk that is only read.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "devices/virtio/pmem/config.h"
#include "src/base/result.h"
#include "src/disk/raw_file.h"
#include "src/disk/vmdk/flat_disk.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::virtio {

class PmemFiles {
 public:
  // Of an empty slot: none. Errors are sentences for the person who named the file.
  static Result<PmemFiles> open(const PmemConfig& config);

  std::uint64_t size() const { return size_; }  // bytes, of all
  std::span<const WindowPart> parts() const { return parts_; }

  struct Version {
    std::uint64_t size = 0;     // bytes
    std::int64_t modified = 0;  // ns since 1970
    friend bool operator==(const Version&, const Version&) = default;
  };
  // Of each part's file, as it is now.
  Result<std::vector<Version>> versions() const;

 private:
  Result<void> open_one(const PmemConfig& config);
  Result<void> open_list(const PmemConfig& config);
  Result<void> add(const disk::RawFile& file, std::uint64_t offset, std::uint64_t length);

  std::unique_ptr<disk::RawFile> file_;
  std::unique_ptr<disk::vmdk::FlatDisk> list_;
  std::vector<WindowPart> parts_;
  std::uint64_t size_ = 0;
};

}  // namespace vmm::virtio
