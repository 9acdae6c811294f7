// Session: the life of one `vmm` process: its machine, console, signals and control socket.
//
//   auto session = TRY(Session::create(config));
//   return session->run();            // the exit code
//
//   running <--pause, resume--> paused
//      |  power button, SIGTERM          the guest resets: a new machine in the same process
//      v
//   stopping --guest powers off, a deadline, a second signal--> ended
//
// It is the one owner of all changes of the machine's state, on the thread that called run().
// vCPUs, devices and control connections only send it requests.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "devices/backend/chardev/chardev.h"
#include "src/base/event_loop.h"
#include "src/base/result.h"
#include "src/hypervisor/machine/machine.h"
#include "src/hypervisor/session/control_server.h"
#include "src/hypervisor/session/saver.h"
#include "src/hypervisor/snapshot/reader.h"
#include "src/hypervisor/snapshot/working_set.h"

namespace vmm {

// Exit codes of the program, part of its interface (README, "Exit codes").
enum ExitCode : int {
  kExitPowerOff = 0,     // the guest powered off, or reset with --no-reboot
  kExitFailed = 1,       // the machine did not start: bad option, missing file, no KVM
  kExitPanic = 2,        // the guest's kernel panicked
  kExitTripleFault = 3,  // the guest's processor shut down
  kExitInternal = 4,     // the host's KVM, or this program, could not go on
  kExitKilled = 5,       // ended by a second signal, a deadline, or `vmm ctl ... stop`
};

class Session {
 public:
  // What a session starts with beside its machine's configuration.
  struct Start {
    std::string config_text;                     // the configuration as JSON, for snapshots
    std::unique_ptr<snapshot::Source> snapshot;  // null: a cold boot
    Begin begin = Begin::running;
    std::chrono::steady_clock::time_point program_started = std::chrono::steady_clock::now();
    UniqueFd ready;  // told when the guest runs, or is ready and paused; empty: nobody waits
  };
  // Opens everything; the guest does not run yet.
  static Result<std::unique_ptr<Session>> create(MachineConfig config, Start start);
  ~Session();

  int run();
  // Instead of run(): whether it would start.
  Result<void> check_start() const;
  // While it does not run.
  const Machine& machine() const { return *machine_; }

 private:
  Session(MachineConfig config, Start start)
      : config_(std::move(config)), start_(std::move(start)) {}
  Result<void> open();
  Result<void> create_machine();
  Result<void> start_machine(Begin begin);
  // Milliseconds since the program began.
  double age() const;
  Machine::Environment environment();
  void watch_working_set(const snapshot::Reader& snapshot);
  Result<void> finish_memory();
  [[noreturn]] void end_with_damage(const std::string& text) const;
  Result<void> watch_signals();
  void on_signal();
  void on_end(End how, const std::string& text);
  void reboot();
  // Asks the guest to power off; asked twice, or without an answer in time, the machine ends.
  void ask_to_stop(const char* who);
  void finish(int exit_code, const std::string& text);

  void serve(const protocol::Request& request, const ControlServer::Answer& answer);
  Result<std::string> serve_now(const protocol::Request& request);
  void snapshot(const protocol::Request& request, const ControlServer::Answer& answer);
  Result<std::string> balloon(const std::string& argument);
  std::string state() const;

  MachineConfig config_;
  Start start_;
  std::unique_ptr<EventLoop> loop_;
  UniqueFd signals_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<chardev::Chardev> console_;
  std::vector<UniqueFd> disk_files_;             // without names: scratch layers, unpacked disks
  std::vector<std::string> made_;                // files that go again unless it starts
  std::unique_ptr<snapshot::PageServer> pages_;  // null: all of the memory is there
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Saver> saver_;
  std::unique_ptr<snapshot::Prefetcher> prefetcher_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  unsigned generation_ = 0;  // counts machines: an end of an earlier one is ignored
  std::chrono::steady_clock::time_point booted_ = started_;  // when this machine began
  unsigned quick_resets_ = 0;                                // in a row
  bool stopping_ = false;
  bool finished_ = false;
  int exit_code_ = kExitPowerOff;
};

}  // namespace vmm
