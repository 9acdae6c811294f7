#include "src/hypervisor/snapshot/packed_memory.h"

#include <cstring>

namespace vmm::snapshot {

PackedMemory::PackedMemory(std::unique_ptr<Archive> archive)
    : archive_(std::move(archive)),
      frame_pages_(archive_->header().frame_pages),
      by_unique_(runs()) {
  std::ranges::sort(by_unique_, {}, &PageRun::unique);
  reach_.reserve(by_unique_.size());
  std::uint64_t reach = 0;
  for (const auto& run : by_unique_) {
    reach = std::max(reach, run.unique + run.count);
    reach_.push_back(reach);
  }
}

std::size_t PackedMemory::first_behind(std::uint64_t unique) const {
  const auto found = std::ranges::lower_bound(by_unique_, unique, {}, &PageRun::unique);
  return static_cast<std::size_t>(found - by_unique_.begin());
}

bool PackedMemory::has_pieces(std::size_t frame) const {
  const std::uint64_t begin = frame * frame_pages_;
  const std::size_t next = first_behind(begin + frame_pages_);
  return next > 0 && reach_[next - 1] > begin;
}

std::optional<std::size_t> PackedMemory::frame_of(std::uint64_t page) const {
  const auto next = std::ranges::upper_bound(runs(), page, {}, &PageRun::page);
  if (next == runs().begin()) return std::nullopt;
  const auto& run = *std::prev(next);
  if (page - run.page >= run.count) return std::nullopt;
  return (run.unique + (page - run.page)) / frame_pages_;
}

PackedMemory::Pages PackedMemory::zeroes_around(std::uint64_t page, std::uint64_t first,
                                                std::uint64_t last) const {
  const auto next = std::ranges::upper_bound(runs(), page, {}, &PageRun::page);
  if (next != runs().end()) last = std::min(last, next->page);
  if (next != runs().begin()) {
    const auto& before = *std::prev(next);
    first = std::max(first, before.page + before.count);
  }
  return {first, last - first};
}

std::vector<Extent> PackedMemory::extents(std::uint64_t gap, std::size_t most) const {
  std::vector<Extent> extents;
  const auto add_all = [&] {
    extents.clear();
    for (const auto& run : runs()) {
      const std::uint64_t offset = run.page * kArchivePage, length = run.count * kArchivePage;
      const std::uint64_t end = extents.empty() ? 0 : extents.back().offset + extents.back().length;
      if (!extents.empty() && offset - end < gap) {
        extents.back().length = offset + length - extents.back().offset;
      } else if (extents.size() == most) {
        return false;
      } else {
        extents.push_back({offset, length});
      }
    }
    return true;
  };
  while (!add_all()) gap *= 2;
  return extents;
}

Result<void> PackedMemory::fill(const GuestMemory& memory) const {
  for (std::size_t frame = 0; frame < frames(); ++frame) {
    if (!has_pieces(frame)) continue;
    const auto decoded = TRY(decode(frame));
    TRY(for_each_piece(frame, decoded,
                       [&](std::uint64_t page, std::span<const std::byte> bytes) -> Result<void> {
                         const std::uint64_t offset = page * kArchivePage;
                         for (const auto& region : memory.regions()) {
                           const auto piece = region.piece(offset, bytes.size());
                           if (piece.bytes.empty()) continue;
                           std::memcpy(piece.bytes.data(), bytes.data() + (piece.offset - offset),
                                       piece.bytes.size());
                         }
                         return {};
                       }));
  }
  return {};
}

}  // namespace vmm::snapshot
