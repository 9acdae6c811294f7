#include <time.h>

#include <algorithm>

#include "arch/state.h"

namespace vmm::arch {
namespace {

std::uint64_t realtime_now() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

Result<void> get_chip(const kvm::Vm& vm, std::uint32_t id, kvm_irqchip& chip) {
  chip.chip_id = id;
  TRY(kvm::call(vm.fd(), KVM_GET_IRQCHIP, "KVM_GET_IRQCHIP", &chip));
  return {};
}

}  // namespace

Result<InterruptControllerState> save_interrupt_controller(const kvm::Vm& vm, unsigned) {
  InterruptControllerState state;
  TRY(get_chip(vm, KVM_IRQCHIP_PIC_MASTER, state.pic_master));
  TRY(get_chip(vm, KVM_IRQCHIP_PIC_SLAVE, state.pic_slave));
  TRY(get_chip(vm, KVM_IRQCHIP_IOAPIC, state.io_apic));
  return state;
}

Result<void> restore_interrupt_controller(const kvm::Vm& vm,
                                          const InterruptControllerState& state) {
  // Which one it is stands in the state as well, and that is what KVM goes by.
  const auto set = [&vm](const kvm_irqchip& chip, std::uint32_t id) -> Result<void> {
    if (chip.chip_id != id) {
      return fail("the state of interrupt controller {} is one of number {}", id, chip.chip_id);
    }
    TRY(kvm::call(vm.fd(), KVM_SET_IRQCHIP, "KVM_SET_IRQCHIP", &chip));
    return {};
  };
  TRY(set(state.pic_master, KVM_IRQCHIP_PIC_MASTER));
  TRY(set(state.pic_slave, KVM_IRQCHIP_PIC_SLAVE));
  return set(state.io_apic, KVM_IRQCHIP_IOAPIC);
}

Result<ClockState> save_clock(const kvm::Vm& vm) {
  ClockState state;
  TRY(kvm::call(vm.fd(), KVM_GET_CLOCK, "KVM_GET_CLOCK", &state.clock));
  state.realtime_ns =
      (state.clock.flags & KVM_CLOCK_REALTIME) != 0 ? state.clock.realtime : realtime_now();
  return state;
}

Result<ClockShift> restore_clock(const kvm::Vm& vm, const ClockState& state) {
  constexpr std::uint32_t kBoth = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
  ClockShift shift;
  kvm_clock_data now{};
  TRY(kvm::call(vm.fd(), KVM_GET_CLOCK, "KVM_GET_CLOCK", &now));
  const std::uint64_t realtime =
      (now.flags & KVM_CLOCK_REALTIME) != 0 ? now.realtime : realtime_now();
  shift.elapsed_ns = realtime > state.realtime_ns ? realtime - state.realtime_ns : 0;
  shift.exact = (now.flags & kBoth) == kBoth && (state.clock.flags & kBoth) == kBoth;
  shift.host_tsc = now.host_tsc;
  shift.saved_host_tsc = state.clock.host_tsc;
  kvm_clock_data set{};
  set.clock = state.clock.clock + shift.elapsed_ns;
  TRY(kvm::call(vm.fd(), KVM_SET_CLOCK, "KVM_SET_CLOCK", &set));
  return shift;
}

}  // namespace vmm::arch
