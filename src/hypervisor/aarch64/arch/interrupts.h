// The interrupt controller that the host's kernel emulates: a GICv3 with an ITS
// (Documentation/virt/kvm/devices/arm-vgic-v3.rst and arm-vgic-its.rst of the kernel).
#pragma once

#include "src/base/result.h"
#include "src/hypervisor/kvm/kvm.h"

namespace vmm::arch {

// Before any vCPU is created.
Result<void> create_interrupt_controller(kvm::Vm& vm);
// When all are.
Result<void> start_interrupt_controller(const kvm::Vm& vm);

// An attribute of a KVM device (KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR). `value` is as wide as
// the attribute; null for one that is an order. The error names `what`.
Result<void> get_attribute(int device, std::uint32_t group, std::uint64_t attribute, void* value,
                           const char* what);
Result<void> set_attribute(int device, std::uint32_t group, std::uint64_t attribute,
                           const void* value, const char* what);

}  // namespace vmm::arch
