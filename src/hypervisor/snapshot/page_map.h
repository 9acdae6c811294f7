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
  bool resident = false;         // in memory
  bool present = false;          // in memory, swapped out, or missing and write-protected
  bool shared = false;           // of a file, as it is there
  bool soft_dirty = false;       // what these two say: write_tracker.h
  bool write_protected = false;  // by userfaultfd
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
        const auto has = [&](unsigned bit) { return (entries[i] >> bit & 1) != 0; };
        visit(region.flat_offset + at + i * kPage, PageUse{.resident = has(63),
                                                           .present = has(63) || has(62),
                                                           .shared = has(61),
                                                           .soft_dirty = has(55),
                                                           .write_protected = has(57)});
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

}  // namespace vmm::snapshot
