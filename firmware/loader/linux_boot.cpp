#include "firmware/loader/linux_boot.h"

#include <algorithm>

namespace vmm::loader {
namespace {

// Where a PC has its extended BIOS data, video memory and ROMs.
constexpr std::uint64_t kLowRamEnd = 0x9fc00;
constexpr std::uint64_t kHighRamStart = 0x100000;

Result<void> check_ascending(const std::vector<MemoryMapEntry>& entries) {
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const MemoryMapEntry& entry = entries[i];
    if (entry.size == 0 || entry.base.value + entry.size < entry.base.value) {
      return fail("the memory range {:#x}+{:#x} is empty or wraps", entry.base.value, entry.size);
    }
    if (i > 0 && entries[i - 1].base + entries[i - 1].size > entry.base) {
      return fail("the memory ranges at {:#x} and {:#x} overlap", entries[i - 1].base.value,
                  entry.base.value);
    }
  }
  return {};
}

// [from, to) without `taken`, which ascend, as entries of `type`.
void append_without(std::vector<MemoryMapEntry>& map, std::uint64_t from, std::uint64_t to,
                    MemoryType type, const std::vector<MemoryMapEntry>& taken) {
  for (const MemoryMapEntry& other : taken) {
    const std::uint64_t start = other.base.value;
    const std::uint64_t end = start + other.size;
    if (end <= from || start >= to) continue;
    if (start > from) map.push_back({GuestAddress{from}, start - from, type});
    from = std::min(end, to);
  }
  if (from < to) map.push_back({GuestAddress{from}, to - from, type});
}

}  // namespace

Result<std::vector<MemoryMapEntry>> memory_map(const LinuxBoot& boot) {
  // 1. What the caller reserves, 2. what is left of the hole below 1 MiB, 3. what is left of RAM.
  std::vector<MemoryMapEntry> taken = boot.reserved;
  std::ranges::sort(taken, {}, &MemoryMapEntry::base);
  TRY(check_ascending(taken));
  std::vector<MemoryMapEntry> hole;
  append_without(hole, kLowRamEnd, kHighRamStart, MemoryType::reserved, taken);
  taken.insert(taken.end(), hole.begin(), hole.end());
  std::ranges::sort(taken, {}, &MemoryMapEntry::base);

  std::vector<MemoryMapEntry> ram;
  for (const MemoryRange& range : boot.ram) ram.push_back({range.base, range.size});
  TRY(check_ascending(ram));

  std::vector<MemoryMapEntry> all = taken;
  for (const MemoryMapEntry& range : ram) {
    append_without(all, range.base.value, range.base.value + range.size, MemoryType::ram, taken);
  }
  std::ranges::sort(all, {}, &MemoryMapEntry::base);

  std::vector<MemoryMapEntry> map;
  for (const MemoryMapEntry& entry : all) {
    if (!map.empty() && map.back().type == entry.type &&
        map.back().base + map.back().size == entry.base) {
      map.back().size += entry.size;
    } else {
      map.push_back(entry);
    }
  }
  if (map.size() > kMaxMemoryMapEntries) {
    return fail("the memory map has {} entries, more than {}", map.size(), kMaxMemoryMapEntries);
  }
  return map;
}

Result<void> write_command_line(const LinuxBoot& boot, const BootLayout& layout,
                                const GuestMemory& memory) {
  if (boot.command_line.size() > boot.command_line_max) {
    return fail("the kernel's command line has {} characters, this kernel takes {}",
                boot.command_line.size(), boot.command_line_max);
  }
  if (boot.command_line.find('\0') != std::string::npos) {
    return fail("the kernel's command line has a NUL character in it");
  }
  const std::span text(boot.command_line.c_str(), boot.command_line.size() + 1);
  return memory.write_bytes(layout.command_line, std::as_bytes(text));
}

}  // namespace vmm::loader
