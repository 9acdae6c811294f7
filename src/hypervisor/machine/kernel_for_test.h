// A guest of a few instructions, as a kernel that a machine loads: an ELF file with a PVH entry;
// the code runs in 32-bit protected mode, of x86-64.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

namespace vmm::test {

inline void write_kernel(const std::string& path, const std::vector<std::uint8_t>& code) {
  constexpr std::uint32_t kEntry = 0x100'0000;
  std::string file;
  const auto put = [&file](std::uint64_t value, unsigned size) {
    file.append(reinterpret_cast<const char*>(&value), size);
  };
  constexpr std::uint64_t kNote = 20, kSegments = 64, kText = kSegments + 2 * 56;
  file.append(
          "\x7f"
          "ELF\x02\x01\x01",
          7)
      .resize(16, '\0');
  put(2, 2), put(62, 2), put(1, 4);              // an executable for x86-64
  put(kEntry, 8), put(kSegments, 8), put(0, 8);  // entry, program and section headers
  put(0, 4), put(64, 2), put(56, 2), put(2, 2), put(0, 6);
  put(1, 4), put(5, 4), put(kText, 8), put(kEntry, 8), put(kEntry, 8);  // PT_LOAD
  put(code.size(), 8), put(code.size(), 8), put(0x1000, 8);
  put(4, 4), put(4, 4), put(kText + code.size(), 8), put(0, 8), put(0, 8);  // PT_NOTE
  put(kNote, 8), put(kNote, 8), put(4, 8);
  file.append(code.begin(), code.end());
  put(4, 4), put(4, 4), put(18, 4);  // XEN_ELFNOTE_PHYS32_ENTRY
  file.append("Xen\0", 4);
  put(kEntry, 4);
  std::ofstream(path, std::ios::binary) << file;
}

}  // namespace vmm::test
