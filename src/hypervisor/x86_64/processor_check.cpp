#include <bit>
#include <map>
#include <utility>

#include "arch/cpuid.h"
#include "arch/state.h"

namespace vmm::arch {
namespace {

enum class Register : std::uint8_t { eax, ebx, ecx, edx };

std::uint32_t value_of(const kvm_cpuid_entry2& entry, Register reg) {
  switch (reg) {
    case Register::eax:
      return entry.eax;
    case Register::ebx:
      return entry.ebx;
    case Register::ecx:
      return entry.ecx;
    case Register::edx:
      return entry.edx;
  }
  return 0;
}

// Registers of CPUID whose bits each stand for a feature, less those bits that the monitor sets by
// itself or that follow what the guest does.
struct FeatureWord {
  std::uint32_t function;
  std::uint32_t index;
  Register reg;
  std::uint32_t ignored;
};
constexpr FeatureWord kWords[] = {
    {0x1, 0, Register::ecx, 1u << 21 | 1u << 24 | 1u << 27 | 1u << 31},
    {0x1, 0, Register::edx, 1u << 9 | 1u << 28},
    {0x7, 0, Register::ebx, 0},
    {0x7, 0, Register::ecx, 1u << 4},
    {0x7, 0, Register::edx, 0},
    {0x7, 1, Register::eax, 0},
    {0xd, 0, Register::eax, 0},
    {0xd, 0, Register::edx, 0},
    {0xd, 1, Register::eax, 0},
    {0x4000'0001, 0, Register::eax, 0},
    {0x8000'0001, 0, Register::ecx, 0},
    {0x8000'0001, 0, Register::edx, 1u << 9},
    {0x8000'0007, 0, Register::edx, 0},
    {0x8000'0008, 0, Register::ebx, 0},
    {0x8000'0021, 0, Register::eax, 0},
};

// Those that hosts differ by most.
struct FeatureName {
  std::uint32_t function;
  Register reg;
  unsigned bit;
  const char* name;
};
constexpr FeatureName kNames[] = {
    {0x1, Register::ecx, 12, "FMA"},
    {0x1, Register::ecx, 28, "AVX"},
    {0x1, Register::ecx, 25, "AES"},
    {0x1, Register::ecx, 20, "SSE4.2"},
    {0x1, Register::ecx, 26, "XSAVE"},
    {0x1, Register::ecx, 30, "RDRAND"},
    {0x7, Register::ebx, 5, "AVX2"},
    {0x7, Register::ebx, 3, "BMI1"},
    {0x7, Register::ebx, 8, "BMI2"},
    {0x7, Register::ebx, 16, "AVX512F"},
    {0x7, Register::ebx, 18, "RDSEED"},
    {0x7, Register::ebx, 29, "SHA"},
    {0x7, Register::ecx, 3, "PKU"},
    {0x7, Register::ecx, 9, "VAES"},
    {0x7, Register::edx, 24, "AMX"},
    {0x8000'0001, Register::ecx, 6, "SSE4A"},
    {0x8000'0001, Register::edx, 27, "RDTSCP"},
    {0x8000'0001, Register::edx, 26, "1 GiB pages"},
};

std::string name_of(const FeatureWord& word, unsigned bit) {
  for (const auto& known : kNames) {
    if (known.function == word.function && known.reg == word.reg && known.bit == bit &&
        word.index == 0) {
      return known.name;
    }
  }
  constexpr const char* kRegisters[] = {"EAX", "EBX", "ECX", "EDX"};
  return fmt::format("CPUID {:#x}.{} {} bit {}", word.function, word.index,
                     kRegisters[std::to_underlying(word.reg)], bit);
}

const kvm_cpuid_entry2* find(const std::vector<kvm_cpuid_entry2>& entries, std::uint32_t function,
                             std::uint32_t index) {
  for (const auto& entry : entries) {
    const bool indexed = (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
    if (entry.function == function && (!indexed || entry.index == index)) return &entry;
  }
  return nullptr;
}

}  // namespace

Result<void> check_processor(const VcpuState& state,
                             const std::vector<kvm_cpuid_entry2>& supported) {
  std::vector<kvm_cpuid_entry2> saved;
  for (const auto& entry : state.cpuid) saved.push_back(entry.entry);
  const auto* mine = find(supported, 0, 0);
  const auto* theirs = find(saved, 0, 0);
  if (mine == nullptr || theirs == nullptr) return fail("the processor has no CPUID leaf 0");
  if (mine->ebx != theirs->ebx || mine->ecx != theirs->ecx || mine->edx != theirs->edx) {
    return fail("the snapshot was taken on a processor of another vendor");
  }
  for (const auto& word : kWords) {
    const auto* wanted = find(saved, word.function, word.index);
    if (wanted == nullptr) continue;
    const auto* there = find(supported, word.function, word.index);
    const std::uint32_t have = there == nullptr ? 0 : value_of(*there, word.reg);
    const std::uint32_t missing = value_of(*wanted, word.reg) & ~have & ~word.ignored;
    if (missing == 0) continue;
    const auto bit = static_cast<unsigned>(std::countr_zero(missing));
    return fail("this host's processor or its KVM lacks {}, which the guest was told it has",
                name_of(word, bit));
  }
  return {};
}

Result<void> check_processors(const kvm::Kvm& kvm, const kvm::Vm&,
                              std::span<const VcpuState> states) {
  const auto supported = TRY(supported_cpuid(kvm));
  for (const auto& state : states) TRY(check_processor(state, supported));
  return {};
}

}  // namespace vmm::arch
