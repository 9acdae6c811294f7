// Everything that KVM keeps of a machine: vCPUs, interrupt controller, clock. Order of both ways:
// snapshot/FORMAT.md, "Order"; the reasons stand where the calls are made.
//
//   saving:     vCPUs paused, after a KVM_RUN with immediate_exit; devices suspended
//     const auto clock = TRY(save_clock(vm));
//     const auto chips = TRY(save_interrupt_controller(vm, vcpus));   writes to guest memory
//     for each vCPU: TRY(save_vcpu(kvm, vm, vcpu))
//   restoring:  fresh VM and vCPUs, nothing running, guest memory as it was
//     TRY(check_processors(kvm, vm, states)); for each vCPU: restore_model; restore_clock;
//     restore_interrupt_controller; for each vCPU: restore_vcpu; last, once all are restored:
//     announce_pause
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/kvm/abi.h"
#include "src/hypervisor/kvm/kvm.h"
#include "src/hypervisor/state/archive.h"

namespace vmm::arch {

struct RegisterState {
  std::uint64_t id = 0;          // KVM_REG_*
  std::vector<std::byte> value;  // as many bytes as the number says
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, id);
    archive(2, value);
  }
};

struct VcpuState {
  static constexpr std::string_view kKind = "arm64-vcpu";
  static constexpr std::uint32_t kVersion = 1;
  kvm_vcpu_init init{};  // what the processor is, beside its registers
  kvm_mp_state mp_state{};
  std::vector<RegisterState> registers;  // all that KVM lists
  kvm_vcpu_events events{};
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, state::raw(init));
    archive(2, state::raw(mp_state));
    archive(3, registers);
    archive(4, state::raw(events));
  }
};

// A register of the GIC or the ITS, by the number of KVM's attribute (offset, and whose).
struct ChipRegisterState {
  std::uint64_t attribute = 0;
  std::uint64_t value = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, attribute);
    archive(2, value);
  }
};

// What the ITS knows of devices and interrupts, and the pending bits of its messages, lie in guest
// memory; these are the registers. Each list is in the order of its restoring.
struct InterruptControllerState {
  static constexpr std::string_view kKind = "arm64-gic";
  static constexpr std::uint32_t kVersion = 1;
  std::vector<ChipRegisterState> distributor;
  std::vector<ChipRegisterState> redistributors;
  std::vector<ChipRegisterState> levels;  // of wired interrupts
  std::vector<ChipRegisterState> processor_interfaces;
  std::vector<ChipRegisterState> its;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, distributor);
    archive(2, redistributors);
    archive(3, levels);
    archive(4, processor_interfaces);
    archive(5, its);
  }
};

struct ClockState {
  static constexpr std::string_view kKind = "arm64-clock";
  static constexpr std::uint32_t kVersion = 1;
  std::uint64_t frequency = 0;    // of the generic timer, Hz
  std::uint64_t realtime_ns = 0;  // the host's CLOCK_REALTIME then
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, frequency);
    archive(2, realtime_ns);
  }
};

Result<VcpuState> save_vcpu(const kvm::Kvm& kvm, const kvm::Vm& vm, const kvm::Vcpu& vcpu);
Result<InterruptControllerState> save_interrupt_controller(const kvm::Vm& vm, unsigned vcpus);
Result<ClockState> save_clock(const kvm::Vm& vm);

// Refuses a host whose processor, or KVM, lacks what the guest was told that it has. What registers
// tell of a processor is checked by KVM when they are restored.
Result<void> check_processors(const kvm::Kvm& kvm, const kvm::Vm& vm,
                              std::span<const VcpuState> states);

// What sort of processor a vCPU is, before anything else of the machine is restored.
Result<void> restore_model(const kvm::Vcpu& vcpu, const VcpuState& state);

// The guest's counter goes on by what passed outside since the state was saved; a host whose time
// is behind stops it for nothing less.
struct ClockShift {
  std::uint64_t ticks = 0;  // to be added to the counter
};
// Error: this host's counter has another frequency, which the guest would not notice.
Result<ClockShift> restore_clock(const kvm::Vm& vm, const ClockState& state);
Result<void> restore_interrupt_controller(const kvm::Vm& vm, const InterruptControllerState& state);
Result<void> restore_vcpu(const kvm::Vm& vm, const kvm::Vcpu& vcpu, const VcpuState& state,
                          const ClockShift& shift);
// KVM has no way to tell the guest that it did not run for a while.
inline void announce_pause(const kvm::Vcpu&) {}

}  // namespace vmm::arch
