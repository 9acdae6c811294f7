// PackedMemory: the guest's memory as it lies in an archive, by frames. A frame is decoded once and
// gives all pages of the memory that are in it, wherever they belong: equal ones are stored once.
//
//   const PackedMemory packed(std::move(archive));      // one that builds on no other
//   if (const auto frame = packed.frame_of(page)) {     // else it is a page of zeroes
//     const auto bytes = TRY(packed.decode(*frame));    // compared with the frame's checksum
//     packed.for_each_piece(*frame, bytes, [&](std::uint64_t page, auto bytes) { ... });
//   }
//
// Pages are those of the flat memory, numbered through. All calls may come from any thread.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/memory/guest_memory.h"
#include "src/hypervisor/snapshot/archive.h"
#include "src/hypervisor/snapshot/memory_layer.h"

namespace vmm::snapshot {

class PackedMemory {
 public:
  explicit PackedMemory(std::unique_ptr<Archive> archive);

  std::size_t frames() const { return archive_->frames(); }
  std::optional<std::size_t> frame_of(std::uint64_t page) const;
  // The pages of zeroes around `page`, which is one, within [first, last).
  struct Pages {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
  };
  Pages zeroes_around(std::uint64_t page, std::uint64_t first, std::uint64_t last) const;
  // Where there is something else than zeroes: at most `most` extents, and none of them nearer to
  // the next than `gap` bytes.
  std::vector<Extent> extents(std::uint64_t gap, std::size_t most) const;

  bool has_pieces(std::size_t frame) const;
  Result<std::vector<std::byte>> decode(std::size_t frame) const {
    return archive_->read_frame(frame);
  }
  // `visit(page, bytes) -> Result<void>` for each run of pages that `decoded` is the content of.
  template <typename Visit>
  Result<void> for_each_piece(std::size_t frame, std::span<const std::byte> decoded,
                              Visit visit) const {
    const std::uint64_t begin = frame * frame_pages_;
    const std::uint64_t end = begin + decoded.size() / kArchivePage;
    for (std::size_t i = first_behind(end); i-- > 0 && reach_[i] > begin;) {
      const auto& run = by_unique_[i];
      const std::uint64_t from = std::max(run.unique, begin);
      const std::uint64_t to = std::min(run.unique + run.count, end);
      if (from >= to) continue;
      TRY(visit(run.page + (from - run.unique),
                decoded.subspan((from - begin) * kArchivePage, (to - from) * kArchivePage)));
    }
    return {};
  }

  // Decodes all of it into `memory`, which has nothing else in it.
  Result<void> fill(const GuestMemory& memory) const;

 private:
  const std::vector<PageRun>& runs() const { return archive_->index().files.back().runs; }
  // The first of by_unique_ that begins at this unique page or behind it.
  std::size_t first_behind(std::uint64_t unique) const;

  const std::unique_ptr<const Archive> archive_;
  const std::uint64_t frame_pages_;
  std::vector<PageRun> by_unique_;    // the runs, in the order of the pages that they are
  std::vector<std::uint64_t> reach_;  // behind the last unique page of that run and all before it
};

}  // namespace vmm::snapshot
