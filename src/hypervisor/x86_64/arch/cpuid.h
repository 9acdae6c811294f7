// What CPUID tells a guest: what the host's KVM supports, with a topology of one socket whose
// cores have one thread each.
#pragma once

#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/kvm/abi.h"
#include "src/hypervisor/kvm/kvm.h"

namespace vmm::arch {

// KVM_GET_SUPPORTED_CPUID, read once a machine.
Result<std::vector<kvm_cpuid_entry2>> supported_cpuid(const kvm::Kvm& kvm);

// The entries for vCPU `index` of `count`; its APIC ID is its index. Pure.
std::vector<kvm_cpuid_entry2> vcpu_cpuid(std::vector<kvm_cpuid_entry2> supported, unsigned index,
                                         unsigned count, bool tsc_deadline);

}  // namespace vmm::arch
