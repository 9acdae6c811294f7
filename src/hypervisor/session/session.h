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
// It is the one owner of all changes of the machine's state. Its thread, the one that called run(),
// serves signals and the control socket and never waits: what changes the machine is done by a
// thread of its own, one after the other (Tasks::in_order), what only looks at it beside that.
//
//   machine_ is looked at      while is_there(): it is neither made anew nor taken apart
//   machine_ is changed        by Tasks::in_order
//   a save's first step        holds the machine (held_): what somebody wants of it meanwhile
//                              (paused or not, the power button) is noted, and done after it
//   a reset, an end            wait for the save that goes on, and for those who look
//
// vCPUs, devices and control connections only send it requests.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "devices/backend/chardev/chardev.h"
#include "src/base/event_loop.h"
#include "src/base/result.h"
#include "src/base/thread.h"
#include "src/base/unix_socket.h"
#include "src/hypervisor/machine/machine.h"
#include "src/hypervisor/machine/slots.h"
#include "src/hypervisor/session/control_server.h"
#include "src/hypervisor/session/jobs.h"
#include "src/hypervisor/session/observer.h"
#include "src/hypervisor/session/saver.h"
#include "src/hypervisor/session/tasks.h"
#include "src/hypervisor/snapshot/boot_files.h"
#include "src/hypervisor/snapshot/source.h"
#include "src/hypervisor/snapshot/working_set.h"

namespace vmm {

// Exit codes of the program, part of its interface (README, "Exit codes").
enum ExitCode : int {
  kExitPowerOff = 0,     // the guest powered off, or reset with --no-reboot or nothing to boot
  kExitFailed = 1,       // the machine did not start: bad option, missing file, no KVM
  kExitPanic = 2,        // the guest's kernel panicked
  kExitTripleFault = 3,  // the guest's processor shut down
  kExitInternal = kInternalErrorCode,  // the host's KVM, or this program, could not go on
  kExitKilled = 5,  // ended by a second signal, a deadline, or `vmm ctl ... stop`
};

class Session {
 public:
  // What a session starts with beside its machine's configuration.
  struct Start {
    // Of the configuration, for snapshots; null: none is taken.
    std::function<Result<snapshot::MachineTexts>(const MachineConfig&)> texts_of;
    std::unique_ptr<snapshot::Source> snapshot;  // null: a cold boot
    // Devices ("blk1") whose disk is not what the snapshot has of them.
    std::set<std::string> attached;
    // What it booted, by name, where the configuration names none: the snapshot has it.
    std::string kernel, initrd;
    Begin begin = Begin::running;
    std::chrono::steady_clock::time_point program_started = std::chrono::steady_clock::now();
    // A vCPU or a device that takes longer to stop ends the process.
    std::chrono::steady_clock::duration patience = std::chrono::seconds(30);
    std::shared_ptr<Waits> waits = std::make_shared<Waits>();
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
  // session.cpp: the life of the machine.
  Result<void> open();
  Result<void> create_machine();
  Result<void> start_machine();
  // Milliseconds since the program began.
  double age() const;
  Machine::Environment environment();
  void watch_working_set(const snapshot::Source& snapshot);
  void bring_in(snapshot::WorkingSet set);
  void record_working_set(const std::function<void(const Result<void>&)>& done);
  static std::string descriptor_path(const UniqueFd& fd);
  // A socket of ours was made at that path.
  void note_socket(const std::string& path);
  void note_device_sockets(const MachineConfig& before);
  [[noreturn]] void end_with_damage(const std::string& text);
  Result<void> watch_signals();
  void on_signal();
  void on_end(End how, const std::string& text);
  MachineConfig booting_again() const;
  void reboot();
  void make_again();
  void start_again(Result<void> made);
  // Asks the guest to power off; asked twice, or without an answer in time, the machine ends.
  void ask_to_stop(const char* who);
  void finish(int exit_code, const std::string& text);
  void cancel_jobs();
  void end();
  void tell_end(int exit_code, const std::string& reason);
  // After anything that others wait for.
  void go_on();
  // While something is done to the machine, or it ends: whether it hangs.
  void watch_for_hangs();
  void look_for_hangs();

  // session_control.cpp, session_slots.cpp: what is asked of it.
  void serve(const protocol::Command& command, unsigned version,
             const ControlServer::Answer& answer);
  // What may be asked at any time.
  bool serve_always(const protocol::Command& command, const ControlServer::Answer& answer);
  void serve_machine(const protocol::Command& command, unsigned version,
                     const ControlServer::Answer& answer);
  void change(bool paused, bool press, const ControlServer::Answer& answer);
  void press_power_button();
  void do_what_is_wanted();
  void tell_paused();
  void snapshot(const protocol::Snapshot& request, unsigned version,
                const ControlServer::Answer& answer);
  void begin_save(Jobs::Job& job, const protocol::Snapshot& request);
  void complete_save(Jobs::Job& job, bool stop);
  void saved(std::uint64_t job, bool stop, const Result<std::string>& result);
  struct SlotWork;
  bool serve_slots(const protocol::Command& command, const ControlServer::Answer& answer);
  void change_slot(Result<SlotRequest> request, const ControlServer::Answer& answer);
  Result<std::shared_ptr<SlotWork>> begin_change(SlotRequest request);
  void make_change(const std::shared_ptr<SlotWork>& work, const ControlServer::Answer& answer);
  void note_change(const SlotWork& work);
  void drop_unused_disk_files();
  Result<std::string> set_memory_target(const std::string& size);
  void metrics(const ControlServer::Answer& answer);
  void listen(const ControlServer::Answer& answer);
  void look_around();
  std::string status() const;
  std::string state() const;
  void publish(const protocol::Event& event);

  bool is_there() const { return machine_ && !rebooting_ && !ending_; }

  MachineConfig config_;
  MachineConfig named_;  // the same with the names that the person gave, for snapshots
  Start start_;
  std::unique_ptr<EventLoop> loop_;
  UniqueFd signals_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<Jobs> jobs_;
  std::vector<ControlServer::Answer> waiting_;  // for the end
  std::unique_ptr<chardev::Chardev> console_;
  snapshot::BootFiles boot_;          // what a reset boots; before saver_, which reads it
  std::vector<UniqueFd> disk_files_;  // without names: scratch layers, unpacked disks
  std::mutex sockets_mutex_;          // guards sockets_: end_with_damage() has a thread of its own
  std::vector<SocketFile> sockets_;
  std::vector<std::string> made_;                // files that go again unless it starts
  std::unique_ptr<snapshot::PageServer> pages_;  // null: all of the memory is there
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Saver> saver_;
  std::unique_ptr<snapshot::Prefetcher> prefetcher_;
  struct RestoredFrom {
    std::string directory, digest;
  };
  std::optional<RestoredFrom> restored_from_;  // a directory, until the guest boots again
  bool working_set_is_known_ = false;          // or is being recorded
  std::unique_ptr<Tasks> tasks_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  unsigned generation_ = 0;  // counts machines: an end of an earlier one is ignored
  std::chrono::steady_clock::time_point booted_ = started_;  // when this machine began
  unsigned quick_resets_ = 0;                                // in a row

  Observer observer_;
  bool observing_ = false;  // a timer of look_around() runs
  bool want_paused_ = false;
  bool want_press_ = false;  // of the power button
  bool told_paused_ = false;
  unsigned held_ = 0;        // by the first step of a save, or its start: others wait
  bool ends_saved_ = false;  // the machine ends with the save that goes on
  bool rebooting_ = false;   // from the reset until the next machine runs
  bool making_ = false;      // that machine
  std::string last_status_;  // before the reset
  std::vector<ControlServer::Answer> want_metrics_;
  std::set<std::string> changing_;  // slots
  bool stopping_ = false;
  bool finished_ = false;  // the exit code is known
  bool ending_ = false;    // the machine is taken apart
  bool watching_ = false;  // a timer of look_for_hangs() runs
  std::optional<std::chrono::steady_clock::time_point> ends_since_;  // no snapshot is waited for
  int exit_code_ = kExitPowerOff;
  std::string reason_;
};

}  // namespace vmm
