// How a vCPU of this architecture is made ready.
#pragma once

#include "src/base/result.h"
#include "src/hypervisor/kvm/kvm.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::arch {

// How the kernel is entered.
enum class Entry { pvh, linux64 };

struct EntryPoint {
  Entry kind = Entry::pvh;
  GuestAddress address;
};

// The argument of KVM_CREATE_VM. Error: this host has no room for so much memory (bytes).
Result<unsigned long> vm_type(const kvm::Kvm& kvm, std::uint64_t memory);

// Gives every vCPU what it has for life: CPUID and the registers that reset alone does not set.
class VcpuSetup {
 public:
  static Result<VcpuSetup> create(const kvm::Kvm& kvm, const kvm::Vm& vm, unsigned count);
  Result<void> apply(const kvm::Vcpu& vcpu) const;

 private:
  VcpuSetup() = default;
  std::vector<kvm_cpuid_entry2> supported_;
  unsigned count_ = 1;
  bool tsc_deadline_ = false;
};

// Puts the boot processor at the kernel's entry; writes its GDT (and page tables) to the memory.
// The others wait for the guest to start them.
Result<void> set_entry(const kvm::Vcpu& vcpu, const GuestMemory& memory, const EntryPoint& entry);

// An exit that kvm/ does not know, in words for the log: what the guest or the kernel did.
std::string describe_exit(const kvm::Vcpu& vcpu);

}  // namespace vmm::arch
