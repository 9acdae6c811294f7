#include "src/hypervisor/memory/guest_memory.h"

#include <unistd.h>

#include <algorithm>

#include "src/base/text.h"

namespace vmm {
namespace {

constexpr std::uint64_t kHugePage = 2u << 20;
constexpr std::uint64_t kSmallPage = 4096;
constexpr std::uint64_t kFirstWindow = std::uint64_t{4} << 30;

}  // namespace

Result<std::unique_ptr<GuestMemory>> GuestMemory::create(std::span<const MemoryRange> ranges,
                                                         std::span<const FilePart> parts) {
  std::unique_ptr<GuestMemory> memory(new GuestMemory);
  std::uint64_t flat_offset = 0;
  for (const auto& range : ranges) {
    // One huge page more, so that host and guest addresses agree modulo 2 MiB: only then can KVM
    // map a huge page of the host as a huge page of the guest.
    auto mapping = Mapping::create(range.size + kHugePage, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    if (!mapping) {
      return fail("cannot reserve {} of guest memory: {}", format_size(range.size),
                  mapping.error().message());
    }
    const auto start = reinterpret_cast<std::uintptr_t>(mapping->data());
    const std::uint64_t shift = (range.base.value - start) & (kHugePage - 1);
    std::byte* host = mapping->data() + shift;
    // Without transparent huge pages in the host's kernel this fails, and 4 KiB pages do.
    (void)::madvise(host, range.size, MADV_HUGEPAGE);
    (void)::madvise(host, range.size, MADV_DONTDUMP);  // a core file holds no guest's secrets
    Region region{range, host, flat_offset};
    flat_offset += range.size;
    TRY(map_parts(region, parts));
    memory->regions_.push_back(region);
    memory->mappings_.push_back(std::move(*mapping));
  }
  return memory;
}

Result<void> GuestMemory::map_parts(Region& region, std::span<const FilePart> parts) {
  for (const auto& part : parts) {
    const auto piece = region.piece(part.offset, part.length);
    if (piece.bytes.empty()) continue;
    if (::mmap(piece.bytes.data(), piece.bytes.size(), PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, part.fd,
               static_cast<off_t>(piece.offset)) == MAP_FAILED) {
      return fail_errno("cannot map {} of guest memory from its file",
                        format_size(piece.bytes.size()));
    }
    (void)::madvise(piece.bytes.data(), piece.bytes.size(), MADV_DONTDUMP);
    region.from_file = true;
  }
  return {};
}

Result<GuestAddress> GuestMemory::add_window(std::uint64_t size,
                                             std::span<const WindowPart> parts) {
  std::uint64_t base = kFirstWindow;
  const auto keep_above = [&base](const MemoryRange& range) {
    base = std::max(base, range.base.value + range.size);
  };
  for (const auto& region : regions_) keep_above(region.range);
  for (const auto& window : windows_) keep_above(window.range);
  base = (base + kWindowAlignment - 1) / kWindowAlignment * kWindowAlignment;
  // Nobody writes to it: untouched pages are the host's page of zeroes. Huge pages as in create().
  auto mapping =
      Mapping::create(size + kHugePage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  if (!mapping) {
    return fail("cannot reserve {} of address space: {}", format_size(size),
                mapping.error().message());
  }
  const auto start = reinterpret_cast<std::uintptr_t>(mapping->data());
  std::byte* host = mapping->data() + ((base - start) & (kHugePage - 1));
  for (const auto& part : parts) {
    if (::mmap(host + part.offset, part.length, PROT_READ, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
               part.fd, static_cast<off_t>(part.file_offset)) == MAP_FAILED) {
      return fail_errno("cannot map {} of a file", format_size(part.length));
    }
  }
  (void)::madvise(host, size, MADV_DONTDUMP);
  windows_.push_back({{GuestAddress{base}, size}, host});
  mappings_.push_back(std::move(*mapping));
  return GuestAddress{base};
}

void GuestMemory::mark_served() {
  for (auto& region : regions_) region.served = true;
}

std::uint64_t GuestMemory::size() const {
  std::uint64_t total = 0;
  for (const auto& region : regions_) total += region.range.size;
  return total;
}

std::uint64_t GuestMemory::resident() const {
  constexpr std::uint64_t kChunk = 256u << 20;
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> map(kChunk / page);
  std::uint64_t pages = 0;
  for (const auto& region : regions_) {
    for (std::uint64_t at = 0; at < region.range.size; at += kChunk) {
      const std::uint64_t length = std::min(kChunk, region.range.size - at);
      if (::mincore(region.host + at, length, map.data()) < 0) continue;
      const auto end = map.begin() + static_cast<std::ptrdiff_t>((length + page - 1) / page);
      pages += static_cast<std::uint64_t>(
          std::count_if(map.begin(), end, [](unsigned char c) { return (c & 1) != 0; }));
    }
  }
  return pages * page;
}

std::byte* GuestMemory::host_pointer(GuestAddress address, std::uint64_t length) const {
  for (const auto& region : regions_) {
    const std::uint64_t offset = address.value - region.range.base.value;
    // Unsigned: an address below the region wraps to a huge offset.
    if (offset < region.range.size && length <= region.range.size - offset) {
      return region.host + offset;
    }
  }
  return nullptr;
}

const std::byte* GuestMemory::source_pointer(GuestAddress address, std::uint64_t length) const {
  if (const auto* host = host_pointer(address, length); host != nullptr) return host;
  for (const auto& window : windows_) {
    const std::uint64_t offset = address.value - window.range.base.value;
    if (offset < window.range.size && length <= window.range.size - offset) {
      return window.host + offset;
    }
  }
  return nullptr;
}

Result<std::span<std::byte>> GuestMemory::slice(GuestAddress address, std::uint64_t length) const {
  std::byte* host = host_pointer(address, length);
  if (host == nullptr) {
    return fail("guest range {:#x}+{:#x} is outside of the guest's memory", address.value, length);
  }
  return std::span(host, length);
}

Result<void> GuestMemory::write_bytes(GuestAddress address,
                                      std::span<const std::byte> bytes) const {
  const auto target = TRY(slice(address, bytes.size()));
  if (!bytes.empty()) std::memcpy(target.data(), bytes.data(), bytes.size());
  return {};
}

Result<void> GuestMemory::discard(GuestAddress address, std::uint64_t length) const {
  const auto bytes = TRY(slice(address, length));
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto start = reinterpret_cast<std::uintptr_t>(bytes.data());
  const std::uintptr_t first = (start + page - 1) & ~(page - 1);
  const std::uintptr_t last = (start + bytes.size()) & ~(page - 1);
  if (first >= last) return {};
  std::byte* pages = bytes.data() + (first - start);
  const std::size_t size = last - first;
  note_discard(pages, size);
  const bool comes_back = std::ranges::any_of(regions_, [&](const Region& region) {
    return (region.from_file || region.served) && pages >= region.host &&
           pages < region.host + region.range.size;
  });
  if (comes_back) return discard_overlaid(pages, pages + size);
  if (::madvise(pages, size, MADV_DONTNEED) < 0) {
    return fail_errno("cannot give back guest range {:#x}+{:#x}", address.value, length);
  }
  return {};
}

void GuestMemory::record_discards() const {
  std::lock_guard lock(discards_->mutex);
  discards_->pages.assign(size() / kSmallPage, false);
}

bool GuestMemory::was_discarded(std::uint64_t offset) const {
  const std::uint64_t page = offset / kSmallPage;
  return page < discards_->pages.size() && discards_->pages[page];
}

void GuestMemory::note_discard(const std::byte* first, std::size_t size) const {
  std::lock_guard lock(discards_->mutex);
  if (discards_->pages.empty()) return;
  for (const auto& region : regions_) {
    if (first < region.host || first >= region.host + region.range.size) continue;
    const auto offset = region.flat_offset + static_cast<std::uint64_t>(first - region.host);
    const auto begin = discards_->pages.begin() + static_cast<std::ptrdiff_t>(offset / kSmallPage);
    std::fill_n(begin, size / kSmallPage, true);
  }
}

void GuestMemory::Overlays::add(std::byte* first, std::byte* last) {
  auto next = ranges.lower_bound(first);
  if (next != ranges.begin() && std::prev(next)->second >= first) --next;
  while (next != ranges.end() && next->first <= last) {
    first = std::min(first, next->first);
    last = std::max(last, next->second);
    next = ranges.erase(next);
  }
  ranges.emplace(first, last);
}

std::pair<std::byte*, bool> GuestMemory::Overlays::part(std::byte* at, std::byte* last) const {
  const auto next = ranges.upper_bound(at);
  if (next != ranges.begin() && std::prev(next)->second > at) {
    return {std::min(std::prev(next)->second, last), true};
  }
  return {next == ranges.end() ? last : std::min(next->first, last), false};
}

// MADV_DONTNEED would bring back the content of a private mapping's file; and pages that wait to be
// served would still be. What is mapped over them is neither the file's nor registered, so that
// MADV_DONTNEED does for it from then on.
Result<void> GuestMemory::discard_overlaid(std::byte* first, std::byte* last) const {
  std::lock_guard lock(overlays_->mutex);
  const auto [end, all_overlaid] = overlays_->part(first, last);
  if (!(all_overlaid && end == last) && overlays_->made < kMostOverlays) {
    const auto size = static_cast<std::size_t>(last - first);
    if (::mmap(first, size, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED) {
      ++overlays_->made;
      overlays_->add(first, last);
      (void)::madvise(first, size, MADV_DONTDUMP);
      return {};
    }
  }
  while (first < last) {
    const auto [part_end, overlaid] = overlays_->part(first, last);
    const auto size = static_cast<std::size_t>(part_end - first);
    // No more mappings: it stays, as zeroes.
    if (!overlaid || ::madvise(first, size, MADV_DONTNEED) < 0) std::memset(first, 0, size);
    first = part_end;
  }
  return {};
}

}  // namespace vmm
