// Where things are in the guest's physical address space, aarch64.
//
//   0x0800'0000  GIC distributor             0x1000'0000  PCI window
//   0x0802'0000  its ITS                     0x3f00'0000  ECAM of bus 0
//   0x0a00'0000  its redistributors          0x4000'0000  memory, all of it:
//   0x0e00'0000  serial port                     +0           device tree
//   0x0e01'0000  clock                           +0x1f'f000   VM generation ID
//   0x0e02'0000  panic register                  +0x20'0000   kernel from here on, initrd on top
#pragma once

#include <cstdint>
#include <vector>

#include "src/hypervisor/kvm/abi.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::arch {

inline constexpr MemoryRange kGicDistributor{GuestAddress{0x800'0000}, 0x1'0000};
inline constexpr MemoryRange kGicIts{GuestAddress{0x802'0000}, 0x2'0000};
inline constexpr GuestAddress kGicRedistributors{0xa00'0000};
inline constexpr std::uint64_t kGicRedistributorSize = 0x2'0000;  // of one vCPU
inline constexpr unsigned kMaxVcpus = 512;                        // up to the serial port

inline constexpr std::uint32_t kSerial = 0xe00'0000;
inline constexpr std::uint32_t kRtc = 0xe01'0000;
inline constexpr std::uint32_t kPanic = 0xe02'0000;

inline constexpr MemoryRange kPciWindow{GuestAddress{0x1000'0000}, 0x2f00'0000};
inline constexpr MemoryRange kEcam{GuestAddress{0x3f00'0000}, 0x10'0000};

inline constexpr GuestAddress kMemory{0x4000'0000};
inline constexpr GuestAddress kDeviceTree = kMemory;
inline constexpr GuestAddress kGenerationId{kMemory.value + 0x1f'f000};
inline constexpr std::uint64_t kDeviceTreeRoom = kGenerationId.value - kDeviceTree.value;
inline constexpr GuestAddress kKernel{kMemory.value + 0x20'0000};
// The initrd is within 32 GiB, from a multiple of 1 GiB that is not above the kernel
// (Documentation/arch/arm64/booting.rst, 4).
inline constexpr GuestAddress kInitrdLast{kMemory.value + (std::uint64_t{32} << 30) - 1};

inline constexpr std::uint64_t kMinMemory = 64u << 20;

// Interrupts, numbered among those shared by all vCPUs (SPI).
inline constexpr std::uint32_t kFirstSpi = 32;
inline constexpr std::uint32_t kSpiCount = 32;
inline constexpr std::uint32_t kSerialSpi = 1;
inline constexpr std::uint32_t kPowerKeySpi = 2;
inline constexpr std::uint32_t kGenerationSpi = 3;

// As KVM_IRQ_LINE numbers them.
constexpr std::uint32_t line_of(std::uint32_t spi) {
  return std::uint32_t{KVM_ARM_IRQ_TYPE_SPI} << KVM_ARM_IRQ_TYPE_SHIFT | (kFirstSpi + spi);
}

// What KVM gives vCPU `index` as its affinity, and so its name in the GIC: 16 in a cluster, 256
// clusters in the next level (reset_mpidr() of arch/arm64/kvm/sys_regs.c).
constexpr std::uint64_t affinity_of(unsigned index) {
  return (index & 0xf) | std::uint64_t{(index >> 4) & 0xff} << 8 |
         std::uint64_t{(index >> 12) & 0xff} << 16;
}

inline std::vector<MemoryRange> memory_ranges(std::uint64_t bytes) { return {{kMemory, bytes}}; }

}  // namespace vmm::arch
