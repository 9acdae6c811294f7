// LinuxBoot: what a kernel is told about its machine, whichever way it is entered. boot_params.h
// and pvh_start_info.h write it down in the two forms that there are.
//
//   LinuxBoot boot;
//   boot.ram = {{GuestAddress{0}, 512 << 20}};
//   boot.command_line = "console=ttyS0";
//   boot.reserved = {{tables.base, tables.bytes.size(), MemoryType::acpi}};
//   boot.rsdp = tables.rsdp;
//   const BootLayout layout{.info = GuestAddress{0x7000}, .command_line = GuestAddress{0x20000}};
//   TRY(write_boot_params(boot, layout, memory));    // or write_pvh_start_info
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "firmware/loader/initrd.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_address.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::loader {

// The values are those of e820 and of hvm_memmap_table_entry, which agree.
enum class MemoryType : std::uint32_t { ram = 1, reserved = 2, acpi = 3 };

struct MemoryMapEntry {
  GuestAddress base;
  std::uint64_t size = 0;
  MemoryType type = MemoryType::ram;
  friend bool operator==(const MemoryMapEntry&, const MemoryMapEntry&) = default;
};

struct LinuxBoot {
  std::vector<MemoryRange> ram;  // ascending, not overlapping
  // Not RAM for the kernel, in or out of `ram`: tables, the PCI configuration space. They do not
  // overlap. From 0x9fc00 to 1 MiB all is reserved in any case.
  std::vector<MemoryMapEntry> reserved;
  std::string command_line;
  std::uint32_t command_line_max = 2047;  // characters; LoadedKernel says it
  std::optional<LoadedInitrd> initrd;
  std::optional<GuestAddress> rsdp;
  std::vector<std::byte> setup_header;  // LoadedKernel has it; boot_params only
};

// Where in guest memory the caller has room.
struct BootLayout {
  GuestAddress info;          // one page, for the structure that the kernel is entered with
  GuestAddress command_line;  // command_line_max + 1 bytes
};

constexpr std::size_t kMaxMemoryMapEntries = 128;

// RAM with the reserved ranges taken out of it, ascending, neighbours of one type joined. Refuses
// ranges that overlap or wrap, and more than kMaxMemoryMapEntries.
Result<std::vector<MemoryMapEntry>> memory_map(const LinuxBoot& boot);

// Writes the command line and its NUL. Refuses one that is too long or that has a NUL inside.
Result<void> write_command_line(const LinuxBoot& boot, const BootLayout& layout,
                                const GuestMemory& memory);

}  // namespace vmm::loader
