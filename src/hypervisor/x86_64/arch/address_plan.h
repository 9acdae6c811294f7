// Where things are in the guest's physical address space, x86-64.
//
//   0x0000'0500  GDT of the boot processor          0x000a'0000  hole of the PC
//   0x0000'6000  PVH start info                     0x000e'0000  ACPI tables
//   0x0000'7000  boot_params (zero page)            0x0010'0000  kernel from here on, initrd on top
//   0x0000'9000  page tables (3 pages)
//   0x0002'0000  command line                       0xc000'0000  end of low memory: PCI window
//   0x0009'f000  VM generation ID                   0xe000'0000  ECAM of bus 0
//   0x0009'fc00  end of conventional memory         0xfec0'0000  I/O APIC, then the local APIC
//                                                   4 GiB        memory that does not fit below
#pragma once

#include <cstdint>
#include <vector>

#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::arch {

inline constexpr GuestAddress kGdt{0x500};
inline constexpr GuestAddress kPvhStartInfo{0x6000};
inline constexpr GuestAddress kBootParams{0x7000};
inline constexpr GuestAddress kPageTables{0x9000};
inline constexpr GuestAddress kCommandLine{0x20000};
inline constexpr std::uint64_t kCommandLineRoom = 0x10000;
inline constexpr GuestAddress kGenerationId{0x9f000};
inline constexpr GuestAddress kLowMemoryEnd{0x9fc00};
inline constexpr GuestAddress kAcpiTables{0xe0000};
inline constexpr GuestAddress kHighMemory{0x100000};

inline constexpr std::uint64_t kGapStart = 0xc000'0000;  // RAM below the gap ends here
inline constexpr std::uint64_t kGapEnd = 0x1'0000'0000;
inline constexpr MemoryRange kPciWindow{GuestAddress{kGapStart}, 0x1000'0000};
inline constexpr MemoryRange kEcam{GuestAddress{0xe000'0000}, 0x10'0000};
inline constexpr std::uint32_t kIoApic = 0xfec0'0000;
inline constexpr std::uint32_t kLocalApic = 0xfee0'0000;
// Four pages that KVM on Intel wants for its own (KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_TSS_ADDR).
inline constexpr std::uint64_t kIdentityMap = 0xfffb'c000;
inline constexpr std::uint64_t kTss = 0xfffb'd000;

inline constexpr std::uint64_t kMinMemory = 64u << 20;

// Wired interrupts of the I/O APIC, and ports.
inline constexpr std::uint32_t kSerialGsi = 4;
inline constexpr std::uint32_t kEventGsi = 5;
inline constexpr std::uint32_t kRtcGsi = 8;
inline constexpr std::uint16_t kSerialPort = 0x3f8;
inline constexpr std::uint16_t kRtcPort = 0x70;
inline constexpr std::uint16_t kPowerPort = 0x600;

// RAM of `bytes`, split around the gap.
inline std::vector<MemoryRange> memory_ranges(std::uint64_t bytes) {
  if (bytes <= kGapStart) return {{GuestAddress{0}, bytes}};
  return {{GuestAddress{0}, kGapStart}, {GuestAddress{kGapEnd}, bytes - kGapStart}};
}

}  // namespace vmm::arch
