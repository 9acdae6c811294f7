// How a vCPU of this architecture is made ready.
#pragma once

#include <cstdint>
#include <string>

#include "src/base/result.h"
#include "src/hypervisor/kvm/abi.h"
#include "src/hypervisor/kvm/kvm.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::arch {

// Where the kernel is entered.
struct EntryPoint {
  GuestAddress address;
};

// The argument of KVM_CREATE_VM: bits of a guest's address. Error: this host has no room for so
// much memory (bytes).
Result<unsigned long> vm_type(const kvm::Kvm& kvm, std::uint64_t memory);

// Makes the vCPU a processor of the kind that `init` says, and fixes what can be fixed once only.
Result<void> initialize(const kvm::Vcpu& vcpu, const kvm_vcpu_init& init);

// Gives every vCPU what it has for life: the host's processor with all that KVM virtualizes of it,
// but for the performance monitor. All but the first wait for PSCI to start them.
class VcpuSetup {
 public:
  static Result<VcpuSetup> create(const kvm::Kvm& kvm, const kvm::Vm& vm, unsigned count);
  Result<void> apply(const kvm::Vcpu& vcpu) const;
  // Of a vCPU that has been started.
  const kvm_vcpu_init& init() const { return init_; }

 private:
  VcpuSetup() = default;
  kvm_vcpu_init init_{};
};

// Puts the boot processor at the kernel's entry, with the device tree's address in x0.
Result<void> set_entry(const kvm::Vcpu& vcpu, const GuestMemory& memory, const EntryPoint& entry);

// An exit that kvm/ does not know, in words for the log: what the guest or the kernel did.
std::string describe_exit(const kvm::Vcpu& vcpu);

}  // namespace vmm::arch
