#include "arch/cpuid.h"

#include <algorithm>
#include <bit>

namespace vmm::arch {
namespace {

static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8, "kvm/abi.h mends them");

// Leaf 1.
constexpr std::uint32_t kEcxX2Apic = 1u << 21;
constexpr std::uint32_t kEcxTscDeadline = 1u << 24;
constexpr std::uint32_t kEcxHypervisor = 1u << 31;
constexpr std::uint32_t kEdxHtt = 1u << 28;

// Leaf 0xB: level types in ECX.
constexpr std::uint32_t kLevelThread = 1u << 8;
constexpr std::uint32_t kLevelCore = 2u << 8;

constexpr std::size_t kMaxEntries = 256;

void set_field(std::uint32_t& reg, unsigned low, unsigned width, std::uint32_t value) {
  const std::uint32_t mask = ((1u << width) - 1) << low;
  reg = (reg & ~mask) | ((value << low) & mask);
}

kvm_cpuid_entry2 topology_level(std::uint32_t level, std::uint32_t apic_id, unsigned count) {
  kvm_cpuid_entry2 entry{};
  entry.function = 0xb;
  entry.index = level;
  entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  entry.ecx = level;
  entry.edx = apic_id;
  if (level == 0) {
    entry.ebx = 1;
    entry.ecx |= kLevelThread;
  } else if (level == 1) {
    entry.eax = static_cast<std::uint32_t>(std::bit_width(count - 1));  // bits of the core number
    entry.ebx = count;
    entry.ecx |= kLevelCore;
  }
  return entry;
}

}  // namespace

Result<std::vector<kvm_cpuid_entry2>> supported_cpuid(const kvm::Kvm& kvm) {
  kvm::Table<kvm_cpuid2, kvm_cpuid_entry2> table(kMaxEntries);
  table.header()->nent = kMaxEntries;
  TRY(kvm::call(kvm.fd(), KVM_GET_SUPPORTED_CPUID, "KVM_GET_SUPPORTED_CPUID", table.header()));
  return std::vector<kvm_cpuid_entry2>(table.entries(), table.entries() + table.header()->nent);
}

std::vector<kvm_cpuid_entry2> vcpu_cpuid(std::vector<kvm_cpuid_entry2> supported, unsigned index,
                                         unsigned count, bool tsc_deadline) {
  std::erase_if(supported, [](const kvm_cpuid_entry2& entry) {
    // 0xB is made anew; 0x1F describes the host's dies and says the same otherwise.
    return entry.function == 0xb || entry.function == 0x1f;
  });
  for (auto& entry : supported) {
    switch (entry.function) {
      case 0x1:
        set_field(entry.ebx, 24, 8, index);
        set_field(entry.ebx, 16, 8, std::min(std::bit_ceil(count), 255u));
        entry.ecx |= kEcxHypervisor | kEcxX2Apic;
        if (tsc_deadline) entry.ecx |= kEcxTscDeadline;
        if (count > 1) {
          entry.edx |= kEdxHtt;
        } else {
          entry.edx &= ~kEdxHtt;
        }
        break;
      case 0x4: {  // Intel: caches; bits 25..14 are the threads that share it, less one
        const std::uint32_t level = (entry.eax >> 5) & 7;
        if ((entry.eax & 0x1f) == 0) break;
        set_field(entry.eax, 14, 12, level >= 3 ? std::bit_ceil(count) - 1 : 0);
        set_field(entry.eax, 26, 6, std::min(std::bit_ceil(count), 64u) - 1);
        break;
      }
      case 0x8000'0008:  // AMD: threads, less one, and the bits of a core number
        set_field(entry.ecx, 0, 8, std::min(count, 256u) - 1);
        set_field(entry.ecx, 12, 4, static_cast<std::uint32_t>(std::bit_width(count - 1)));
        break;
      case 0x8000'001d: {  // AMD: caches
        const std::uint32_t level = (entry.eax >> 5) & 7;
        if ((entry.eax & 0x1f) == 0) break;
        set_field(entry.eax, 14, 12, level >= 3 ? count - 1 : 0);
        break;
      }
      case 0x8000'001e:  // AMD: extended APIC ID, core, node
        entry.eax = index;
        entry.ebx = index & 0xff;
        entry.ecx = 0;
        break;
      default:
        break;
    }
  }
  for (std::uint32_t level = 0; level < 3; ++level) {
    supported.push_back(topology_level(level, index, count));
  }
  return supported;
}

}  // namespace vmm::arch
