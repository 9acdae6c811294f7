// The interrupt controller that the host's kernel emulates.
#pragma once

#include "src/base/result.h"
#include "src/hypervisor/kvm/kvm.h"

namespace vmm::arch {

// Before any vCPU is created.
Result<void> create_interrupt_controller(kvm::Vm& vm);
// When all are.
Result<void> start_interrupt_controller(const kvm::Vm& vm);

}  // namespace vmm::arch
