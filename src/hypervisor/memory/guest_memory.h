// GuestMemory: the RAM of a guest, as regions of host memory, and windows to files beside it. Plain
// mmap, no KVM, so that devices and tests use it alone.
//
//   const auto memory = TRY(GuestMemory::create({{GuestAddress{0}, 256 << 20}}, {}));
//   const auto header = TRY(memory->read<RequestHeader>(address));   // copied out once
//   auto data = TRY(memory->slice(address, length));                 // checked, then direct
//
// Every access is checked against the regions; none crosses from one region into the next. The
// guest writes concurrently: copy a structure out once, then check and use the copy.
// All calls may come from any thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "src/base/mapping.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_address.h"

namespace vmm {

struct MemoryRange {
  GuestAddress base;
  std::uint64_t size = 0;  // bytes, a multiple of the page size
};

// A part of a guest's memory that starts as the content of a file. Offsets are those in the flat
// memory: the ranges one behind the other, without the gaps; the file has them at the same offset.
struct FilePart {
  std::uint64_t offset = 0;  // bytes, multiples of the page size
  std::uint64_t length = 0;
  // check: raw-descriptors allowed, it is looked at during create() only
  int fd = -1;
};

// What of a file lies where in a window. In bytes, all but `length` multiples of the page size.
struct WindowPart {
  std::uint64_t offset = 0;  // in the window
  std::uint64_t length = 0;
  // check: raw-descriptors allowed, it is looked at during add_window() only
  int fd = -1;
  std::uint64_t file_offset = 0;
};

class GuestMemory {
 public:
  // A stretch of the flat memory that lies in one region.
  struct Piece {
    std::uint64_t offset = 0;  // in the flat memory
    std::span<std::byte> bytes;
  };
  struct Region {
    MemoryRange range;
    std::byte* host = nullptr;
    std::uint64_t flat_offset = 0;  // of its start in the flat memory
    bool from_file = false;         // some of it started as a file's content
    bool served = false;  // what is missing of it may be put in by somebody: mark_served()

    // What of [offset, offset + length) of the flat memory lies here; no bytes: nothing.
    Piece piece(std::uint64_t offset, std::uint64_t length) const {
      const std::uint64_t first = std::max(offset, flat_offset);
      const std::uint64_t last = std::min(offset + length, flat_offset + range.size);
      if (first >= last) return {};
      return {first, {host + (first - flat_offset), last - first}};
    }
  };

  // `ranges` ascending, not overlapping. Private anonymous memory, huge pages where the host has
  // them; nothing is resident before it is touched.
  static Result<std::unique_ptr<GuestMemory>> create(std::span<const MemoryRange> ranges) {
    return create(ranges, {});
  }
  // The same, with parts mapped privately from files: nothing is read before it is touched, pages
  // that are not written are shared with all who map the file. Later parts lie over earlier ones.
  // The files stay as they are for as long as the memory lives.
  static Result<std::unique_ptr<GuestMemory>> create(std::span<const MemoryRange> ranges,
                                                     std::span<const FilePart> parts);

  // A stretch of the guest's address space that is no RAM, with files of the host that it reads in
  // their place and cannot write to (virtio-pmem).
  struct Window {
    MemoryRange range;
    const std::byte* host = nullptr;
  };
  // Windows begin at multiples of this size, above all memory and from 4 GiB on.
  static constexpr std::uint64_t kWindowAlignment = 1u << 30;
  // A window of `size` bytes, a multiple of the page size, with `parts`, pages of the files' own,
  // and zeroes elsewhere. The files stay as they are for as long as the memory lives: who reads
  // what was cut off gets SIGBUS. Before devices look at the memory. Returns where it is.
  Result<GuestAddress> add_window(std::uint64_t size, std::span<const WindowPart> parts);
  std::span<const Window> windows() const { return windows_; }

  // From now on, pages that are not there may get a content when they are touched (userfaultfd(2),
  // snapshot/page_server.h). What is discarded must not: discard() maps fresh memory over it.
  void mark_served();

  std::span<const Region> regions() const { return regions_; }
  std::uint64_t size() const;

  // The bytes [address, address + length), or an error when any of them is outside of the RAM.
  Result<std::span<std::byte>> slice(GuestAddress address, std::uint64_t length) const;
  // As slice(), for hot paths: null instead of an error.
  std::byte* host_pointer(GuestAddress address, std::uint64_t length) const;
  // The same of what is only read, which may lie in a window as well.
  const std::byte* source_pointer(GuestAddress address, std::uint64_t length) const;

  template <typename T>
  Result<T> read(GuestAddress address) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto bytes = TRY(slice(address, sizeof(T)));
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  template <typename T>
  Result<void> write(GuestAddress address, const T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto bytes = TRY(slice(address, sizeof(T)));
    std::memcpy(bytes.data(), &value, sizeof(T));
    return {};
  }
  Result<void> write_bytes(GuestAddress address, std::span<const std::byte> bytes) const;

  // Bytes of it that the host keeps in memory now (mincore).
  std::uint64_t resident() const;

  // Gives [address, address + length) back to the host; it reads as zero afterwards. Only whole
  // pages inside of the range are given back. Of memory that came from a file, or is served, each
  // range that is given back takes a mapping of the host's: beyond kMostOverlays it stays with the
  // guest, as zeroes.
  Result<void> discard(GuestAddress address, std::uint64_t length) const;

  // From now on, was_discarded() says which pages were given back, even if they were touched again:
  // the kernel does not tell a page that came back as zeroes from one that was never written.
  // No thread gives memory back meanwhile.
  void record_discards() const;
  // Whether the page of 4096 bytes at `offset` of the flat memory was given back since; likewise.
  bool was_discarded(std::uint64_t offset) const;

  // Each splits a mapping, so that there are two more. A process has 65530 (vm.max_map_count), and
  // threads and allocations need some, too.
  static constexpr std::size_t kMostOverlays = 12u << 10;

 private:
  GuestMemory() = default;
  static Result<void> map_parts(Region& region, std::span<const FilePart> parts);
  // What was mapped over a file's pages, or over those that are served.
  struct Overlays {
    std::mutex mutex;  // guards all below
    std::size_t made = 0;
    std::map<std::byte*, std::byte*> ranges;  // start to end, apart from one another
    void add(std::byte* first, std::byte* last);
    // The end of the part that starts at `at`, before `last`, and whether it is one of the ranges.
    std::pair<std::byte*, bool> part(std::byte* at, std::byte* last) const;
  };
  struct Discards {
    std::mutex mutex;         // guards all below
    std::vector<bool> pages;  // of the flat memory; empty: nobody asked for it
  };
  void note_discard(const std::byte* first, std::size_t size) const;
  Result<void> discard_overlaid(std::byte* first, std::byte* last) const;

  std::unique_ptr<Overlays> overlays_ = std::make_unique<Overlays>();
  std::unique_ptr<Discards> discards_ = std::make_unique<Discards>();
  std::vector<Mapping> mappings_;
  std::vector<Region> regions_;
  std::vector<Window> windows_;
};

}  // namespace vmm
