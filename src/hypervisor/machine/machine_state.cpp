// How a machine's state is taken and put back. The order is KVM's: what raises interrupts before
// what holds them when saving (devices are suspended first: their last interrupts are in the
// interrupt controller then), the reverse when restoring.
#include "arch/state.h"
#include "src/hypervisor/machine/machine.h"

namespace vmm {
namespace {

constexpr std::string_view kClock = "clock";
constexpr std::string_view kInterruptController = "irqchip";
std::string vcpu_section(std::size_t index) { return fmt::format("vcpu{}", index); }

}  // namespace

Result<state::Sections> Machine::save() {
  // What it asked for (a reset, say) would be lost: the request is in no state.
  if (ended_) return fail("the guest has ended meanwhile");
  state::Sections sections;
  devices_->save(sections);
  board_->save(sections);
  sections.put(kInterruptController, TRY(arch::save_interrupt_controller(*vm_, config_.cpus)));
  // Before the vCPUs: their clocks are told by it, and go on while it is read.
  sections.put(kClock, TRY(arch::save_clock(*vm_)));
  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    sections.put(vcpu_section(i), TRY(arch::save_vcpu(*kvm_, *vm_, vcpus_[i]->vcpu())));
  }
  return sections;
}

Result<void> Machine::restore_state(state::Sections& sections) {
  std::vector<arch::VcpuState> states;
  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    states.push_back(TRY(sections.take<arch::VcpuState>(vcpu_section(i))));
  }
  TRY(arch::check_processors(*kvm_, *vm_, states));
  const auto clock = TRY(sections.take<arch::ClockState>(kClock));
  const auto chips = TRY(sections.take<arch::InterruptControllerState>(kInterruptController));
  TRY(board_->restore(sections));
  TRY(devices_->restore(sections));
  TRY(sections.check_all_taken());

  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    TRY(arch::restore_model(vcpus_[i]->vcpu(), states[i]));
  }
  const auto shift = TRY(arch::restore_clock(*vm_, clock));
  TRY(arch::restore_interrupt_controller(*vm_, chips));
  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    TRY(arch::restore_vcpu(*vm_, vcpus_[i]->vcpu(), states[i], shift));
  }
  suspended_ = true;
  return board_->renew_identity(*memory_);
}

}  // namespace vmm
