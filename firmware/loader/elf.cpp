#include "firmware/loader/elf.h"

#include <elf.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "firmware/little_endian.h"

namespace vmm::loader {
namespace {

constexpr std::size_t kMaxSegments = 128;
constexpr std::uint64_t kMaxNotes = 1u << 20;        // bytes
constexpr std::uint64_t kAddressLimit = 1ull << 52;  // physical addresses have 52 bits
constexpr std::uint32_t kPhys32Entry = 18;           // xen/include/public/elfnote.h

// All of Elf64_Ehdr and Elf64_Phdr have fixed layouts, read as they are on a little-endian host.
template <typename T>
Result<T> read_as(const ImageSource& source, std::uint64_t offset) {
  std::array<std::byte, sizeof(T)> bytes{};
  TRY(source.read(offset, bytes));
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

std::string machine_name(unsigned machine) {
  struct Machine {
    unsigned id;
    const char* name;
  };
  constexpr std::array<Machine, 9> kMachines = {{{EM_386, "32-bit x86"},
                                                 {EM_AARCH64, "arm64"},
                                                 {EM_ARM, "32-bit arm"},
                                                 {EM_RISCV, "riscv"},
                                                 {EM_PPC64, "ppc64"},
                                                 {EM_PPC, "ppc"},
                                                 {EM_S390, "s390"},
                                                 {EM_MIPS, "mips"},
                                                 {258, "loongarch"}}};
  for (const Machine& known : kMachines) {
    if (known.id == machine) return known.name;
  }
  return fmt::format("the machine {} of ELF", machine);
}

Result<void> check_header(const Elf64_Ehdr& header) {
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return fail("it is not an ELF file");
  // The machine first: it says more than the class. Both layouts have it at the same place.
  const bool big_endian = header.e_ident[EI_DATA] == ELFDATA2MSB;
  const unsigned machine = big_endian ? __builtin_bswap16(header.e_machine) : header.e_machine;
  if (machine != EM_X86_64) {
    return fail("it is a kernel for {}, this machine is x86-64", machine_name(machine));
  }
  if (header.e_ident[EI_CLASS] != ELFCLASS64) return fail("it is a 32-bit ELF file, not a 64-bit");
  if (header.e_ident[EI_DATA] != ELFDATA2LSB) return fail("it is a big-endian ELF file");
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
    return fail("it is an ELF file of type {}, not an executable", header.e_type);
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 ||
      header.e_phnum > kMaxSegments) {
    return fail("its program headers ({} of {} bytes) are not between 1 and {} of {} bytes",
                header.e_phnum, header.e_phentsize, kMaxSegments, sizeof(Elf64_Phdr));
  }
  return {};
}

Result<ElfSegment> check_segment(const Elf64_Phdr& header, std::uint64_t file_size) {
  if (header.p_filesz > header.p_memsz) {
    return fail("its segment at {:#x} has {} bytes in the file, more than its {} in memory",
                header.p_paddr, header.p_filesz, header.p_memsz);
  }
  if (header.p_offset > file_size || header.p_filesz > file_size - header.p_offset) {
    return fail("it is truncated: its segment at {:#x} ends outside of the file of {} bytes",
                header.p_paddr, file_size);
  }
  if (header.p_paddr > kAddressLimit || header.p_memsz > kAddressLimit - header.p_paddr) {
    return fail("its segment {:#x}+{:#x} is outside of any memory", header.p_paddr, header.p_memsz);
  }
  return ElfSegment{header.p_offset, header.p_filesz, header.p_memsz, GuestAddress{header.p_paddr}};
}

bool is_in_segments(const ElfImage& image, std::uint64_t address) {
  return std::ranges::any_of(image.segments, [&](const ElfSegment& segment) {
    return address - segment.address.value < segment.memory_size;  // unsigned
  });
}

bool is_owner(std::span<const std::byte> notes, std::uint64_t at, std::uint64_t size,
              std::string_view owner) {
  return size == owner.size() + 1 &&
         std::memcmp(notes.data() + at, owner.data(), owner.size()) == 0 &&
         notes[at + owner.size()] == std::byte{0};
}

// A note: 32-bit sizes of name and descriptor, a type, then both, each padded.
void take_notes(std::span<const std::byte> notes, std::uint64_t alignment, ElfImage& image) {
  const auto padded = [&](std::uint64_t size) { return (size + alignment - 1) & ~(alignment - 1); };
  std::uint64_t at = 0;
  while (notes.size() - at >= 12) {
    const std::uint64_t name_size = get_le<std::uint32_t>(notes, at);
    const std::uint64_t size = get_le<std::uint32_t>(notes, at + 4);
    const auto type = get_le<std::uint32_t>(notes, at + 8);
    const std::uint64_t descriptor = padded(at + 12 + name_size);
    const std::uint64_t next = padded(descriptor + size);
    if (descriptor > notes.size() || size > notes.size() - descriptor) return;
    if (is_owner(notes, at + 12, name_size, "Linux")) image.is_linux = true;
    if (type == kPhys32Entry && is_owner(notes, at + 12, name_size, "Xen") && !image.pvh_entry) {
      if (size == 8) image.pvh_entry = GuestAddress{get_le<std::uint64_t>(notes, descriptor)};
      if (size == 4) image.pvh_entry = GuestAddress{get_le<std::uint32_t>(notes, descriptor)};
    }
    if (next >= notes.size()) return;
    at = next;
  }
}

Result<void> read_notes(const ImageSource& source, const Elf64_Phdr& header, ElfImage& image) {
  if (header.p_filesz > kMaxNotes) {
    return fail("its notes of {} bytes are more than {}", header.p_filesz, kMaxNotes);
  }
  const auto notes = TRY(source.read(header.p_offset, header.p_filesz));
  take_notes(notes, header.p_align == 8 ? 8 : 4, image);
  return {};
}

Result<void> check_layout(ElfImage& image, std::uint64_t entry) {
  if (image.segments.empty()) return fail("it has nothing to load");
  std::ranges::sort(image.segments, {}, &ElfSegment::address);
  for (std::size_t i = 1; i < image.segments.size(); ++i) {
    const ElfSegment& below = image.segments[i - 1];
    if (below.address + below.memory_size > image.segments[i].address) {
      return fail("its segments at {:#x} and {:#x} overlap", below.address.value,
                  image.segments[i].address.value);
    }
  }
  if (is_in_segments(image, entry)) image.entry = GuestAddress{entry};
  if (image.pvh_entry && !is_in_segments(image, image.pvh_entry->value)) {
    return fail("its PVH entry {:#x} is outside of its segments", image.pvh_entry->value);
  }
  if (!image.entry && !image.pvh_entry) {
    return fail("its entry {:#x} is outside of its segments", entry);
  }
  return {};
}

}  // namespace

Result<ElfImage> parse_elf(const ImageSource& source) {
  if (source.size() < sizeof(Elf64_Ehdr)) {
    return fail("it has {} bytes, too few for an ELF file", source.size());
  }
  const auto header = TRY(read_as<Elf64_Ehdr>(source, 0));
  TRY(check_header(header));
  const std::uint64_t size = std::uint64_t{header.e_phnum} * sizeof(Elf64_Phdr);
  const auto table = TRY(source.read(header.e_phoff, size));
  ElfImage image;
  for (std::size_t i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr program;
    std::memcpy(&program, table.data() + i * sizeof program, sizeof program);
    if (program.p_type == PT_LOAD && program.p_memsz != 0) {
      image.segments.push_back(TRY(check_segment(program, source.size())));
    } else if (program.p_type == PT_NOTE) {
      TRY(read_notes(source, program, image));
    }
  }
  TRY(check_layout(image, header.e_entry));
  return image;
}

Result<void> load_elf(const ElfImage& image, const ImageSource& source, const GuestMemory& memory) {
  for (const ElfSegment& segment : image.segments) {
    const auto target = memory.slice(segment.address, segment.memory_size);
    if (!target) {
      return fail("its segment {:#x}+{:#x} does not fit into the memory of the guest",
                  segment.address.value, segment.memory_size);
    }
    TRY(source.read(segment.file_offset, target->first(segment.file_size)));
  }
  return {};
}

}  // namespace vmm::loader
