// Everything that KVM keeps of a machine: vCPUs, interrupt controller, clock. Order of both ways:
// snapshot/FORMAT.md, "Order"; the reasons stand where the calls are made.
//
//   saving:     vCPUs paused, after a KVM_RUN with immediate_exit; devices suspended
//     const auto clock = TRY(save_clock(vm));
//     const auto chips = TRY(save_interrupt_controller(vm, vcpus));
//     for each vCPU: TRY(save_vcpu(kvm, vm, vcpu))
//   restoring:  fresh VM and vCPUs, nothing running
//     TRY(check_processors(kvm, vm, states)); for each vCPU: restore_model; restore_clock;
//     restore_interrupt_controller; for each vCPU: restore_vcpu; last, once all are restored:
//     announce_pause
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/kvm/abi.h"
#include "src/hypervisor/kvm/kvm.h"
#include "src/hypervisor/state/archive.h"

namespace vmm::arch {

struct MsrState {
  std::uint32_t index = 0;
  std::uint64_t value = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, index);
    archive(2, value);
  }
};

struct CpuidState {
  kvm_cpuid_entry2 entry{};
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, state::raw(entry));
  }
};

struct VcpuState {
  static constexpr std::string_view kKind = "x86-vcpu";
  static constexpr std::uint32_t kVersion = 1;
  std::vector<CpuidState> cpuid;
  std::uint32_t tsc_khz = 0;
  kvm_mp_state mp_state{};
  kvm_regs regs{};
  kvm_sregs sregs{};
  std::vector<std::byte> xsave;  // KVM_GET_XSAVE2's bytes
  kvm_xcrs xcrs{};
  kvm_debugregs debugregs{};
  kvm_lapic_state lapic{};
  std::vector<MsrState> msrs;  // all that KVM lists and lets be read
  kvm_vcpu_events events{};
  std::vector<std::byte> nested;  // KVM_GET_NESTED_STATE's bytes; empty: KVM has none
  bool has_tsc_offset = false;
  std::uint64_t tsc_offset = 0;  // KVM_VCPU_TSC_OFFSET: guest's less host's
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, cpuid);
    archive(2, tsc_khz);
    archive(3, state::raw(mp_state));
    archive(4, state::raw(regs));
    archive(5, state::raw(sregs));
    archive(6, xsave);
    archive(7, state::raw(xcrs));
    archive(8, state::raw(debugregs));
    archive(9, state::raw(lapic));
    archive(10, msrs);
    archive(11, state::raw(events));
    archive(12, nested);
    archive(13, has_tsc_offset);
    archive(14, tsc_offset);
  }
};

struct InterruptControllerState {
  static constexpr std::string_view kKind = "x86-irqchip";
  static constexpr std::uint32_t kVersion = 1;
  kvm_irqchip pic_master{};
  kvm_irqchip pic_slave{};
  kvm_irqchip io_apic{};
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, state::raw(pic_master));
    archive(2, state::raw(pic_slave));
    archive(3, state::raw(io_apic));
  }
};

struct ClockState {
  static constexpr std::string_view kKind = "x86-clock";
  static constexpr std::uint32_t kVersion = 1;
  kvm_clock_data clock{};
  std::uint64_t realtime_ns = 0;  // the host's CLOCK_REALTIME then
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, state::raw(clock));
    archive(2, realtime_ns);
  }
};

Result<VcpuState> save_vcpu(const kvm::Kvm& kvm, const kvm::Vm& vm, const kvm::Vcpu& vcpu);
Result<InterruptControllerState> save_interrupt_controller(const kvm::Vm& vm, unsigned vcpus);
Result<ClockState> save_clock(const kvm::Vm& vm);

// Refuses a host whose processor, or KVM, lacks what the guest was told that it has.
Result<void> check_processors(const kvm::Kvm& kvm, const kvm::Vm& vm,
                              std::span<const VcpuState> states);
Result<void> check_processor(const VcpuState& state,
                             const std::vector<kvm_cpuid_entry2>& supported);

// What sort of processor a vCPU is, before anything else of the machine is restored.
Result<void> restore_model(const kvm::Vcpu& vcpu, const VcpuState& state);

// The guest's clocks go on by what passed outside since the state was saved; a host whose time is
// behind stops them for nothing less. restore_clock() says how the new VM's clocks relate.
struct ClockShift {
  bool exact = false;          // the host's KVM tells its TSC with the time
  std::uint64_t host_tsc = 0;  // now
  std::uint64_t elapsed_ns = 0;
  std::uint64_t saved_host_tsc = 0;
};
Result<ClockShift> restore_clock(const kvm::Vm& vm, const ClockState& state);
Result<void> restore_interrupt_controller(const kvm::Vm& vm, const InterruptControllerState& state);
Result<void> restore_vcpu(const kvm::Vm& vm, const kvm::Vcpu& vcpu, const VcpuState& state,
                          const ClockShift& shift);
// Tells the guest that it did not run for a while, for its watchdogs.
void announce_pause(const kvm::Vcpu& vcpu);

}  // namespace vmm::arch
