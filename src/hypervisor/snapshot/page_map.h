// What the host's kernel knows of this process's pages (Documentation/admin-guide/mm/pagemap.rst
// and soft-dirty.rst of the kernel). Needs no privilege.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/memory/guest_memory.h"
#include "src/hypervisor/snapshot/memory_layer.h"

namespace vmm::snapshot {

struct PageUse {
  bool present = false;  // in memory or swapped out
  bool shared = false;   // of a file, as it is there
  bool dirty = false;    // written since clear_dirty()
};

// Calls `visit(flat offset, PageUse)` for each page of a region, in order.
class PageMap {
 public:
  static Result<PageMap> open();
  template <typename Visit>
  Result<void> for_each(const GuestMemory::Region& region, Visit visit) const {
    std::vector<std::uint64_t> entries;
    for (std::uint64_t at = 0; at < region.range.size; at += kStep) {
      TRY(read(region.host + at, std::min(kStep, region.range.size - at), entries));
      for (std::size_t i = 0; i < entries.size(); ++i) {
        constexpr std::uint64_t kPresent = 3ull << 62;  // present or swapped
        constexpr std::uint64_t kFile = 1ull << 61;
        constexpr std::uint64_t kSoftDirty = 1ull << 55;
        visit(region.flat_offset + at + i * kPage,
              PageUse{(entries[i] & kPresent) != 0, (entries[i] & kFile) != 0,
                      (entries[i] & kSoftDirty) != 0});
      }
    }
    return {};
  }

  static constexpr std::uint64_t kPage = 4096;

 private:
  static constexpr std::uint64_t kStep = 64u << 20;
  explicit PageMap(UniqueFd fd) : fd_(std::move(fd)) {}
  Result<void> read(const std::byte* from, std::uint64_t size,
                    std::vector<std::uint64_t>& entries) const;
  UniqueFd fd_;
};

// From now on, pages that are written are dirty: by vCPUs, devices, or the kernel for them. Error:
// the host's kernel does not track.
Result<void> clear_dirty();

}  // namespace vmm::snapshot
