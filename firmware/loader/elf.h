// ElfImage: what is to be loaded of an ELF kernel for x86-64, and where it is entered.
//
//   const auto image = TRY(parse_elf(source));
//   TRY(load_elf(image, source, memory));
//   const auto entry = image.is_linux && image.entry ? image.entry : image.pvh_entry;
//
// The segments are plain data, so that whoever wants to may map whole pages of source.fd() instead.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "firmware/loader/image_source.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_address.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::loader {

struct ElfSegment {
  std::uint64_t file_offset = 0;
  std::uint64_t file_size = 0;
  std::uint64_t memory_size = 0;  // what is beyond file_size is zero
  GuestAddress address;           // physical
};

struct ElfImage {
  std::vector<ElfSegment> segments;  // ascending, none empty, none overlapping
  // Where e_entry points to, when that is a physical address in a segment.
  std::optional<GuestAddress> entry;
  // It has notes of the owner "Linux": its `entry` is startup_64, to be entered in 64-bit mode.
  bool is_linux = false;
  // Of the note XEN_ELFNOTE_PHYS32_ENTRY, to be entered in 32-bit mode without paging.
  std::optional<GuestAddress> pvh_entry;

  GuestAddress begin() const { return segments.front().address; }
  GuestAddress end() const { return segments.back().address + segments.back().memory_size; }
};

// Refuses what is truncated, not for x86-64 (the error names the machine), has segments that
// overlap, wrap or are not in the file, or no entry.
Result<ElfImage> parse_elf(const ImageSource& source);

// Reads the segments into `memory`, which is fresh: what a segment has beyond its bytes in the file
// is not cleared, as that would make the guest's pages resident for nothing.
Result<void> load_elf(const ElfImage& image, const ImageSource& source, const GuestMemory& memory);

}  // namespace vmm::loader
