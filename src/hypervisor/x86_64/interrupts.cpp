#include "arch/interrupts.h"

#include "arch/address_plan.h"

namespace vmm::arch {
namespace {

constexpr std::uint32_t kIoApicPins = 24;

}  // namespace

Result<void> create_interrupt_controller(kvm::Vm& vm) {
  std::uint64_t identity_map = kIdentityMap;
  TRY(kvm::call(vm.fd(), KVM_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR", &identity_map));
  TRY(kvm::call(vm.fd(), KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR", kTss));
  // Local APICs, one I/O APIC, and a pair of 8259 that no guest of ours is told of. No 8254: the
  // clocks are kvmclock, the TSC and the local APIC's timer.
  TRY(kvm::call(vm.fd(), KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP", 0));
  // The kernel's own default routes, needed again whenever a message route is added.
  std::vector<kvm_irq_routing_entry> routes;
  for (std::uint32_t pin = 0; pin < kIoApicPins; ++pin) {
    kvm_irq_routing_entry entry{};
    entry.gsi = pin;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
    entry.u.irqchip.pin = pin;
    routes.push_back(entry);
  }
  vm.set_fixed_routes(std::move(routes));
  return {};
}

Result<void> start_interrupt_controller(const kvm::Vm&) { return {}; }

}  // namespace vmm::arch
