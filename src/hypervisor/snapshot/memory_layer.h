// The memory of a snapshot as a file: flat (the guest's ranges one behind the other), sparse, pages
// of zeroes as holes, to be mapped as it is. Of an incremental snapshot only what changed is in it;
// MemoryLayer, a section of the state file, says where.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/memory/guest_memory.h"
#include "src/hypervisor/state/archive.h"

namespace vmm::snapshot {

// Of the flat memory, in bytes.
struct Extent {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, offset);
    archive(2, length);
  }
  friend bool operator==(const Extent&, const Extent&) = default;
};

struct MemoryLayer {
  static constexpr std::string_view kKind = "memory-layer";
  static constexpr std::uint32_t kVersion = 1;
  bool complete = true;         // false: only `extents` are in the file, the rest is the parent's
  std::vector<Extent> extents;  // ascending
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, complete);
    archive(2, state::former(extents));
    archive(3, state::flat(extents));
  }
};

// The pages that were ever touched (of memory that started as a file: all).
Result<std::vector<Extent>> touched_pages(const GuestMemory& memory);

// How it is known which pages were written since the parent.
enum class Tracking : std::uint8_t {
  restored,  // the parent is what the memory was restored from: private pages are the written ones
  soft_dirty,       // a WriteTracker was restarted when the parent was saved: pages with that bit,
  write_protected,  // or those that lost their protection
};
// The pages that may differ from the parent's: written ones, and those that are not there (given
// back, they read as zero now) where the parent has data.
Result<std::vector<Extent>> written_pages(const GuestMemory& memory, Tracking tracking,
                                          std::span<const Extent> parent_data);

// Writes the pages of `candidates` that are not zero to the fresh file. Returns how many bytes.
Result<std::uint64_t> write_pages(const GuestMemory& memory, std::span<const Extent> candidates,
                                  int fd);
// Writes the pages of `candidates` that differ from `parent`, which has the same ranges; returns
// where they are. Pages that became zero are among them.
Result<std::vector<Extent>> write_changed_pages(const GuestMemory& memory,
                                                const GuestMemory& parent,
                                                std::span<const Extent> candidates, int fd);

}  // namespace vmm::snapshot
