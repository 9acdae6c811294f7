#include "arch/interrupts.h"

#include "arch/address_plan.h"

namespace vmm::arch {
namespace {

kvm_device_attr describe(std::uint32_t group, std::uint64_t attribute, const void* value) {
  kvm_device_attr description{};
  description.group = group;
  description.attr = attribute;
  description.addr = reinterpret_cast<std::uint64_t>(value);
  return description;
}

}  // namespace

Result<void> get_attribute(int device, std::uint32_t group, std::uint64_t attribute, void* value,
                           const char* what) {
  auto description = describe(group, attribute, value);
  TRY(kvm::call(device, KVM_GET_DEVICE_ATTR, what, &description));
  return {};
}

Result<void> set_attribute(int device, std::uint32_t group, std::uint64_t attribute,
                           const void* value, const char* what) {
  const auto description = describe(group, attribute, value);
  TRY(kvm::call(device, KVM_SET_DEVICE_ATTR, what, &description));
  return {};
}

Result<void> create_interrupt_controller(kvm::Vm& vm) {
  const auto gic = vm.create_device(KVM_DEV_TYPE_ARM_VGIC_V3);
  if (!gic) {
    return fail("this host's KVM has no GICv3 for a guest, which vmm needs ({})",
                gic.error().message());
  }
  const std::uint64_t distributor = kGicDistributor.base.value;
  TRY(set_attribute(*gic, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &distributor,
                    "KVM_VGIC_V3_ADDR_TYPE_DIST"));
  const std::uint64_t redistributors = kGicRedistributors.value;
  TRY(set_attribute(*gic, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, &redistributors,
                    "KVM_VGIC_V3_ADDR_TYPE_REDIST"));
  const std::uint32_t interrupts = kFirstSpi + kSpiCount;
  TRY(set_attribute(*gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &interrupts,
                    "KVM_DEV_ARM_VGIC_GRP_NR_IRQS"));
  const int its = TRY(vm.create_device(KVM_DEV_TYPE_ARM_VGIC_ITS));
  const std::uint64_t its_base = kGicIts.base.value;
  TRY(set_attribute(its, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE, &its_base,
                    "KVM_VGIC_ITS_ADDR_TYPE"));
  // An ITS tells devices apart by what they send as. Wired interrupts need no routes here.
  vm.name_requesters();
  return {};
}

Result<void> start_interrupt_controller(const kvm::Vm& vm) {
  for (const auto type : {KVM_DEV_TYPE_ARM_VGIC_V3, KVM_DEV_TYPE_ARM_VGIC_ITS}) {
    const int device = TRY(vm.device(type));
    TRY(set_attribute(device, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, nullptr,
                      "KVM_DEV_ARM_VGIC_CTRL_INIT"));
  }
  return {};
}

}  // namespace vmm::arch
