#include "arch/vcpu.h"

#include <algorithm>

#include "arch/address_plan.h"
#include "arch/registers.h"
#include "src/base/text.h"

namespace vmm::arch {
namespace {

constexpr unsigned kDefaultAddressBits = 40;  // what KVM_CREATE_VM means by 0

struct Feature {
  unsigned bit;    // of kvm_vcpu_init::features
  int capability;  // says that it is there
};
constexpr Feature kFeatures[] = {
    {KVM_ARM_VCPU_SVE, KVM_CAP_ARM_SVE},
    {KVM_ARM_VCPU_PTRAUTH_ADDRESS, KVM_CAP_ARM_PTRAUTH_ADDRESS},
    {KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_CAP_ARM_PTRAUTH_GENERIC},
};

bool has_feature(const kvm_vcpu_init& init, unsigned bit) {
  return (init.features[bit / 32] >> (bit % 32) & 1) != 0;
}

void set_feature(kvm_vcpu_init& init, unsigned bit) { init.features[bit / 32] |= 1u << (bit % 32); }

}  // namespace

Result<unsigned long> vm_type(const kvm::Kvm& kvm, std::uint64_t memory) {
  const auto most = static_cast<unsigned>(kvm.extension(KVM_CAP_ARM_VM_IPA_SIZE));
  // 0: a kernel from before 4.20, or a host that has the default and no more.
  const unsigned possible = most == 0 ? kDefaultAddressBits : most;
  const std::uint64_t end = kMemory.value + memory;
  unsigned bits = std::min(possible, kDefaultAddressBits);
  while (bits < possible && end > std::uint64_t{1} << bits) ++bits;
  if (end > std::uint64_t{1} << bits) {
    return fail("memory of {} is more than this host's KVM can address for a guest, {} bits",
                format_size(memory), possible);
  }
  return most == 0 || bits == kDefaultAddressBits ? 0ul : KVM_VM_TYPE_ARM_IPA_SIZE(bits);
}

Result<void> initialize(const kvm::Vcpu& vcpu, const kvm_vcpu_init& init) {
  TRY(kvm::call(vcpu.fd(), KVM_ARM_VCPU_INIT, "KVM_ARM_VCPU_INIT", &init));
  return {};
}

Result<VcpuSetup> VcpuSetup::create(const kvm::Kvm&, const kvm::Vm& vm, unsigned) {
  VcpuSetup setup;
  TRY(kvm::call(vm.fd(), KVM_ARM_PREFERRED_TARGET, "KVM_ARM_PREFERRED_TARGET", &setup.init_));
  set_feature(setup.init_, KVM_ARM_VCPU_PSCI_0_2);
  for (const auto& feature : kFeatures) {
    if (::ioctl(vm.fd(), KVM_CHECK_EXTENSION, feature.capability) > 0) {
      set_feature(setup.init_, feature.bit);
    }
  }
  return setup;
}

Result<void> VcpuSetup::apply(const kvm::Vcpu& vcpu) const {
  kvm_vcpu_init init = init_;
  if (vcpu.index() != 0) set_feature(init, KVM_ARM_VCPU_POWER_OFF);
  TRY(initialize(vcpu, init));
  if (has_feature(init, KVM_ARM_VCPU_SVE)) {
    const int feature = KVM_ARM_VCPU_SVE;
    TRY(kvm::call(vcpu.fd(), KVM_ARM_VCPU_FINALIZE, "KVM_ARM_VCPU_FINALIZE", &feature));
  }
  return {};
}

Result<void> set_entry(const kvm::Vcpu& vcpu, const GuestMemory&, const EntryPoint& entry) {
  // A vCPU starts as a processor does: EL1, MMU off, interrupts masked.
  TRY(set_register(vcpu, kRegisterX0, kDeviceTree.value));
  return set_register(vcpu, kRegisterPc, entry.address.value);
}

std::string describe_exit(const kvm::Vcpu& vcpu) {
  const kvm_run& run = vcpu.state();
  std::uint64_t pc = 0;
  const bool known =
      get_register(vcpu, kRegisterPc, std::as_writable_bytes(std::span(&pc, 1))).has_value();
  std::string text =
      fmt::format("vCPU {} left the guest for reason {}", vcpu.index(), run.exit_reason);
  if (run.exit_reason == KVM_EXIT_INTERNAL_ERROR) {
    text = fmt::format("vCPU {}: the host's KVM cannot emulate an instruction (suberror {})",
                       vcpu.index(), run.internal.suberror);
  } else if (run.exit_reason == KVM_EXIT_FAIL_ENTRY) {
    text = fmt::format("vCPU {}: the processor refuses the guest's state (reason {:#x})",
                       vcpu.index(), run.fail_entry.hardware_entry_failure_reason);
  }
  if (known) text += fmt::format(" at pc {:#x}", pc);
  return text;
}

}  // namespace vmm::arch
