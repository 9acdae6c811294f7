// Machine: one virtual machine, from a configuration to its end.
//
//   auto machine = TRY(Machine::create(config, environment));
//   TRY(machine->start());
//   ... machine->pause(), resume(), press_power_button() ...
//   machine.reset();        // stops whatever still runs
//
// Order of the assembly: KVM, memory, the VM, interrupt controller, board, devices, vCPUs, then
// the kernel, which is read meanwhile, and tables, or the saved states of all in the order of
// machine_state.cpp. Order of the end: kick and join the vCPUs, deactivate the devices (which
// flushes their backends and takes irqfds and ioeventfds back), then everything in reverse order of
// its making.
//
// Threads: one call at a time, by whichever thread, but for what says otherwise: paused(),
// memory(), devices() and vcpus() may be looked at meanwhile. vCPUs run on threads of their own,
// devices on workers of their own or on the one named "io".
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arch/board.h"
#include "devices/backend/chardev/chardev.h"
#include "src/base/result.h"
#include "src/base/worker.h"
#include "src/hypervisor/kvm/kvm.h"
#include "src/hypervisor/machine/config.h"
#include "src/hypervisor/machine/device_set.h"
#include "src/hypervisor/machine/vcpu_thread.h"
#include "src/hypervisor/machine/waits.h"
#include "src/hypervisor/state/sections.h"

namespace vmm::arch {
struct Images;
}

namespace vmm {

// How a machine's run ended.
enum class End { power_off, reset, panic, triple_fault, error };

// Whether the guest runs as soon as its machine is started.
enum class Begin : std::uint8_t { running, paused };

class Machine {
 public:
  // What outlives a machine: its owner reboots it by making another one.
  struct Environment {
    chardev::Chardev* serial = nullptr;  // null: no serial port
    // Called once at most, on any thread; no vCPU goes on with the guest then.
    std::function<void(End, std::string text)> on_end;
    std::shared_ptr<Waits> waits = std::make_shared<Waits>();  // told what it waits for
  };

  static Result<std::unique_ptr<Machine>> create(const MachineConfig& config,
                                                 Environment environment);

  // What a snapshot keeps of a machine, beside its disks.
  struct Saved {
    std::unique_ptr<GuestMemory> memory;
    state::Sections sections;
  };
  // The machine as it was, with an identity of its own; `config` says what its devices are
  // connected with. Errors say what does not fit; nothing has run then.
  static Result<std::unique_ptr<Machine>> restore(const MachineConfig& config,
                                                  Environment environment, Saved saved);
  ~Machine();

  // The last things that can be wrong: whether this host's KVM runs guests, and the networks came
  // up. start() asks, too.
  Result<void> check_start() const;
  Result<void> start(Begin begin = Begin::running);
  // Whether Vcpu::map_memory() does something here.
  bool maps_memory_ahead() const { return kvm_->extension(KVM_CAP_PRE_FAULT_MEMORY) != 0; }
  // Is done by the first vCPU's thread, before the guest runs. Before start().
  void set_first_work(VcpuThread::FirstWork work) {
    vcpus_.front()->set_first_work(std::move(work));
  }
  void pause();
  void resume();
  bool paused() const { return paused_; }
  // pause(), and the devices as well: their requests finished, nothing on the way. resume() lets
  // both go on.
  void suspend();
  // While suspended. Error: the guest has ended meanwhile.
  Result<state::Sections> save();
  void press_power_button();

  const GuestMemory& memory() const { return *memory_; }
  DeviceSet& devices() { return *devices_; }
  const std::vector<std::unique_ptr<VcpuThread>>& vcpus() const { return vcpus_; }
  EventLoop& io_loop() { return io_->loop(); }

  // What the guest's kernel is started with.
  static std::string command_line(const MachineConfig& config);

 private:
  Machine(const MachineConfig& config, Environment environment)
      : config_(config), environment_(std::move(environment)) {}
  Result<void> open_kvm();
  Result<void> assemble(const state::Sections* saved);
  Result<void> create_board(bool with_serial);
  Result<void> create_vcpus();
  Result<void> enter_kernel(const arch::Images& images);
  Result<void> restore_state(state::Sections& sections);
  void end(End how, std::string text);

  const MachineConfig config_;
  const Environment environment_;

  // In the order of their making; destroyed in reverse.
  std::optional<kvm::Kvm> kvm_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<kvm::Vm> vm_;
  Bus ports_;
  Bus mmio_;
  std::unique_ptr<Worker> io_;
  std::unique_ptr<arch::Board> board_;
  std::unique_ptr<DeviceSet> devices_;
  std::vector<std::unique_ptr<VcpuThread>> vcpus_;
  std::atomic<bool> ended_{false};
  std::atomic<bool> paused_{true};
  bool suspended_ = false;
};

}  // namespace vmm
