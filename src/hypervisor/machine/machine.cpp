#include "src/hypervisor/machine/machine.h"

#include "arch/address_plan.h"
#include "arch/boot.h"
#include "arch/interrupts.h"
#include "arch/state.h"
#include "arch/vcpu.h"
#include "src/base/log.h"
#include "src/base/text.h"
#include "src/base/thread.h"
#include "src/hypervisor/machine/device_kinds.h"

namespace vmm {
namespace {

End end_of(VcpuThread::Ending ending) {
  switch (ending) {
    case VcpuThread::Ending::power_off:
      return End::power_off;
    case VcpuThread::Ending::reset:
      return End::reset;
    case VcpuThread::Ending::panic:
      return End::panic;
    case VcpuThread::Ending::triple_fault:
      return End::triple_fault;
    case VcpuThread::Ending::error:
      return End::error;
  }
  return End::error;
}

std::string name_of(VcpuThread& vcpu) { return fmt::format("vCPU {}", vcpu.vcpu().index()); }

}  // namespace

Result<std::unique_ptr<Machine>> Machine::create(const MachineConfig& config,
                                                 Environment environment) {
  std::unique_ptr<Machine> machine(new Machine(config, std::move(environment)));
  TRY(machine->open_kvm());
  machine->memory_ = TRY(GuestMemory::create(arch::memory_ranges(config.memory)));
  // Beside the rest, which mostly waits for KVM.
  auto images =
      TRY(Background<arch::Images>::start("loader", [&config, &memory = *machine->memory_] {
        return arch::load_images(config.kernel, config.initrd, memory);
      }));
  TRY(machine->assemble(nullptr));
  TRY(machine->enter_kernel(TRY(images.get())));
  return machine;
}

Result<std::unique_ptr<Machine>> Machine::restore(const MachineConfig& config,
                                                  Environment environment, Saved saved) {
  std::unique_ptr<Machine> machine(new Machine(config, std::move(environment)));
  TRY(machine->open_kvm());
  machine->memory_ = std::move(saved.memory);
  TRY(machine->assemble(&saved.sections));
  TRY(machine->restore_state(saved.sections));
  return machine;
}

Result<void> Machine::open_kvm() {
  kvm_ = TRY(kvm::Kvm::open());
  if (config_.cpus > kvm_->max_vcpus()) {
    return fail("{} vCPUs are more than the {} that this host's KVM allows", config_.cpus,
                kvm_->max_vcpus());
  }
  return {};
}

Result<void> Machine::assemble(const state::Sections* saved) {
  vm_ = TRY(kvm_->create_vm(TRY(arch::vm_type(*kvm_, memory_->size()))));
  TRY(vm_->add_memory(*memory_));
  TRY(arch::create_interrupt_controller(*vm_));
  io_ = TRY(Worker::start("io"));
  TRY(create_board(saved != nullptr ? saved->has("serial") : environment_.serial != nullptr));
  devices_ = TRY(DeviceSet::create(
      config_, {.memory = *memory_, .messages = *vm_, .doorbells = *vm_, .loop = io_->loop()},
      arch::kPciWindow));
  TRY(vm_->add_windows(*memory_));
  devices_->tell_waits(environment_.waits);
  TRY(board_->connect_pci(*vm_, devices_->pci(), ports_, mmio_));
  return create_vcpus();
}

Result<void> Machine::create_board(bool with_serial) {
  std::optional<arch::SerialLine> serial;
  if (with_serial) {
    // A restored guest has the port that it had, connected or not.
    auto* console = environment_.serial;
    serial = arch::SerialLine{[console](std::span<const std::byte> bytes) {
                                if (console != nullptr) console->write(bytes);
                              },
                              [console] {
                                if (console != nullptr) console->resume_input();
                              }};
  }
  board_ = TRY(
      arch::Board::create(*vm_, ports_, mmio_,
                          {.power_off = [this] { end(End::power_off, "the guest powered off"); },
                           .reset = [this] { end(End::reset, "the guest reset the machine"); },
                           .panicked = [this] { end(End::panic, "the guest's kernel panicked"); }},
                          std::move(serial)));
  return {};
}

Result<void> Machine::create_vcpus() {
  for (unsigned i = 0; i < config_.cpus; ++i) {
    vcpus_.push_back(std::make_unique<VcpuThread>(
        TRY(vm_->create_vcpu(i)), ports_, mmio_,
        [this](VcpuThread::Ending how, std::string text) { end(end_of(how), std::move(text)); }));
  }
  return arch::start_interrupt_controller(*vm_);
}

Result<void> Machine::enter_kernel(const arch::Images& images) {
  const auto setup = TRY(arch::VcpuSetup::create(*kvm_, *vm_, config_.cpus));
  for (const auto& vcpu : vcpus_) TRY(setup.apply(vcpu->vcpu()));
  const auto entry = TRY(
      arch::prepare_entry(images, command_line(config_), board_->describe(config_.cpus), *memory_));
  return arch::set_entry(vcpus_[0]->vcpu(), *memory_, entry);
}

std::string Machine::command_line(const MachineConfig& config) {
  std::string line = arch::default_command_line(config.serial.kind != chardev::Kind::none);
  for (const auto& kind : device_kinds()) {
    const auto words = kind.kernel_words != nullptr ? kind.kernel_words(config) : std::string();
    if (!words.empty()) line += " " + words;
  }
  if (!config.append.empty()) line += " " + config.append;
  return line;
}

Machine::~Machine() {
  if (environment_.serial != nullptr) environment_.serial->set_receiver({});
  for (const auto& vcpu : vcpus_) vcpu->request_stop();
  for (const auto& vcpu : vcpus_) {
    const Waits::Scope waiting(*environment_.waits, name_of(*vcpu));
    (void)vcpu->join();  // the one that hangs is in the log
  }
  if (board_ && board_->serial() != nullptr) board_->serial()->flush();
  if (devices_) devices_->stop();
}

Result<void> Machine::check_start() const {
  TRY(kvm::Kvm::check_runs_guests());
  return devices_->wait_ready();
}

Result<void> Machine::start(Begin begin) {
  TRY(check_start());
  for (const auto& vcpu : vcpus_) TRY(vcpu->start());
  if (environment_.serial != nullptr && board_->serial() != nullptr) {
    environment_.serial->set_receiver([uart = board_->serial()](std::span<const std::byte> bytes) {
      return uart->receive(bytes);
    });
  }
  if (begin == Begin::running) resume();
  return {};
}

void Machine::pause() {
  if (paused_) return;
  for (const auto& vcpu : vcpus_) vcpu->request_pause();
  for (const auto& vcpu : vcpus_) {
    const Waits::Scope waiting(*environment_.waits, name_of(*vcpu));
    vcpu->wait_paused();
  }
  paused_ = true;
}

void Machine::suspend() {
  pause();
  if (std::exchange(suspended_, true)) return;
  devices_->suspend();
}

void Machine::resume() {
  if (!paused_) return;
  if (std::exchange(suspended_, false)) devices_->resume();
  paused_ = false;
  for (const auto& vcpu : vcpus_) arch::announce_pause(vcpu->vcpu());
  for (const auto& vcpu : vcpus_) vcpu->resume();
}

void Machine::press_power_button() { board_->press_power_button(); }

// A guest can ask for its end as often as it writes to a port, by all vCPUs at once, while the
// owner's thread is busy for long: the first request counts, and there are no others to keep.
void Machine::end(End how, std::string text) {
  if (ended_.exchange(true)) return;
  for (const auto& vcpu : vcpus_) vcpu->request_park();
  environment_.on_end(how, std::move(text));
}

}  // namespace vmm
