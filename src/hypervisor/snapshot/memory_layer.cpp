#include "src/hypervisor/snapshot/memory_layer.h"

#include <algorithm>
#include <cstring>

#include "src/base/unique_fd.h"
#include "src/base/zero.h"
#include "src/hypervisor/snapshot/page_map.h"

namespace vmm::snapshot {
namespace {

constexpr std::uint64_t kPage = PageMap::kPage;

void append_page(std::vector<Extent>& extents, std::uint64_t offset) {
  if (!extents.empty() && extents.back().offset + extents.back().length == offset) {
    extents.back().length += kPage;
  } else {
    extents.push_back({offset, kPage});
  }
}

// Calls `visit(flat offset, bytes)` for each piece of the extents that lies in one region.
template <typename Visit>
Result<void> for_each_piece(const GuestMemory& memory, std::span<const Extent> extents,
                            Visit visit) {
  for (const auto& extent : extents) {
    for (const auto& region : memory.regions()) {
      const auto piece = region.piece(extent.offset, extent.length);
      if (piece.bytes.empty()) continue;
      TRY(visit(piece.offset, std::span<const std::byte>(piece.bytes)));
    }
  }
  return {};
}

// Writes the runs of pages of `bytes` that `wanted(page number)` picks; tells `written` of each.
template <typename Wanted, typename Written>
Result<void> write_runs(std::span<const std::byte> bytes, std::uint64_t offset, int fd,
                        Wanted wanted, Written written) {
  const std::size_t pages = bytes.size() / kPage;
  for (std::size_t i = 0; i < pages;) {
    if (!wanted(i)) {
      ++i;
      continue;
    }
    std::size_t end = i + 1;
    while (end < pages && wanted(end)) ++end;
    TRY(write_all_at(fd, bytes.subspan(i * kPage, (end - i) * kPage), offset + i * kPage));
    written(offset + i * kPage, (end - i) * kPage);
    i = end + 1;  // the page at `end` was looked at
  }
  return {};
}

bool was_written(const PageUse& use, Tracking tracking) {
  switch (tracking) {
    case Tracking::restored:
      return !use.shared;
    case Tracking::soft_dirty:
      return use.soft_dirty;
    case Tracking::write_protected:
      return !use.write_protected;
  }
  return true;
}

const std::byte* flat_pointer(const GuestMemory& memory, std::uint64_t offset) {
  for (const auto& region : memory.regions()) {
    const auto piece = region.piece(offset, 1);
    if (!piece.bytes.empty()) return piece.bytes.data();
  }
  return nullptr;
}

}  // namespace

Result<std::vector<Extent>> touched_pages(const GuestMemory& memory) {
  std::vector<Extent> extents;
  const auto map = TRY(PageMap::open());
  for (const auto& region : memory.regions()) {
    if (region.from_file) {
      extents.push_back({region.flat_offset, region.range.size});
      continue;
    }
    TRY(map.for_each(region, [&](std::uint64_t offset, PageUse use) {
      if (use.present) append_page(extents, offset);
    }));
  }
  return extents;
}

Result<std::vector<Extent>> written_pages(const GuestMemory& memory, Tracking tracking,
                                          std::span<const Extent> parent_data) {
  std::vector<Extent> extents;
  const auto map = TRY(PageMap::open());
  std::size_t next = 0;  // of parent_data: the first that ends behind the page
  for (const auto& region : memory.regions()) {
    TRY(map.for_each(region, [&](std::uint64_t offset, PageUse use) {
      while (next < parent_data.size() &&
             parent_data[next].offset + parent_data[next].length <= offset) {
        ++next;
      }
      const bool had_data = next < parent_data.size() && parent_data[next].offset <= offset;
      // What was given back and only read since is not written, as the kernel sees it.
      const bool changed =
          use.present ? was_written(use, tracking) || memory.was_discarded(offset) : had_data;
      if (changed) append_page(extents, offset);
    }));
  }
  return extents;
}

Result<std::uint64_t> write_pages(const GuestMemory& memory, std::span<const Extent> candidates,
                                  int fd) {
  std::uint64_t total = 0;
  TRY(for_each_piece(memory, candidates,
                     [&](std::uint64_t offset, std::span<const std::byte> bytes) {
                       return write_runs(
                           bytes, offset, fd,
                           [&](std::size_t i) { return !is_zero(bytes.subspan(i * kPage, kPage)); },
                           [&](std::uint64_t, std::uint64_t length) { total += length; });
                     }));
  return total;
}

Result<std::vector<Extent>> write_changed_pages(const GuestMemory& memory,
                                                const GuestMemory& parent,
                                                std::span<const Extent> candidates, int fd) {
  std::vector<Extent> changed;
  TRY(for_each_piece(
      memory, candidates, [&](std::uint64_t offset, std::span<const std::byte> bytes) {
        const std::byte* before = flat_pointer(parent, offset);
        return write_runs(
            bytes, offset, fd,
            [&](std::size_t i) {
              return std::memcmp(bytes.data() + i * kPage, before + i * kPage, kPage) != 0;
            },
            [&](std::uint64_t at, std::uint64_t length) { changed.push_back({at, length}); });
      }));
  return changed;
}

}  // namespace vmm::snapshot
