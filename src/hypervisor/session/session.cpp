#include "src/hypervisor/session/session.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "src/base/caught.h"
#include "src/base/errors.h"
#include "src/base/log.h"
#include "src/base/own_code.h"
#include "src/hypervisor/machine/device_kinds.h"
#include "src/hypervisor/session/report.h"
#include "src/hypervisor/session/signals.h"

namespace vmm {
namespace {

// After this time nothing of a start goes on.
constexpr auto kStartTime = std::chrono::milliseconds(1000);

// What a guest touches in this time after its first restore is brought in by later ones at once.
constexpr auto kWorkingSetTime = std::chrono::milliseconds(1000);

// And so much of it even before the guest runs, which waits for that: bytes.
constexpr std::uint64_t kMappedAhead = 32u << 20;

// So many resets in a row, each so soon after the start, are no reboots that somebody wants.
constexpr auto kQuickReset = std::chrono::seconds(5);
constexpr unsigned kMostQuickResets = 5;

int exit_code_of(End how) {
  switch (how) {
    case End::power_off:
    case End::reset:
      return kExitPowerOff;
    case End::panic:
      return kExitPanic;
    case End::triple_fault:
      return kExitTripleFault;
    case End::error:
      return kExitInternal;
  }
  return kExitInternal;
}

}  // namespace

Result<std::unique_ptr<Session>> Session::create(MachineConfig config, Start start) {
  std::unique_ptr<Session> session(new Session(std::move(config), std::move(start)));
  TRY(session->open());
  return session;
}

Result<void> Session::open() {
  make_up_addresses(config_);
  loop_ = TRY(EventLoop::create());
  tasks_ = std::make_unique<Tasks>(*loop_);
  named_ = config_;
  if (named_.kernel.empty()) {
    named_.kernel = start_.kernel;
    named_.initrd = start_.initrd;
  }
  saver_ = std::make_unique<Saver>(
      start_.texts_of ? TRY(start_.texts_of(named_)) : snapshot::MachineTexts(), boot_);
  jobs_ = std::make_unique<Jobs>(*loop_, [this](const auto& event) { publish(event); });
  TRY(watch_signals());
  // All that somebody else has in use is said at once.
  Errors errors;
  if (!config_.control.empty()) {
    auto control = ControlServer::create(
        config_.control, *loop_,
        [this](const protocol::Command& command, unsigned version,
               const ControlServer::Answer& answer) { serve(command, version, answer); });
    if (errors.add(control)) {
      control_ = std::move(*control);
      note_socket(config_.control);
    }
  }
  // Machines come and go when the guest reboots; the console stays.
  auto console =
      chardev::open_chardev(config_.serial, *loop_,
                            {.power_button = [this] { ask_to_stop("the console"); },
                             .quit = [this] { finish(kExitKilled, "ended by the console"); }});
  if (errors.add(console)) {
    console_ = std::move(*console);
    if (config_.serial.kind == chardev::Kind::socket) note_socket(config_.serial.path);
  }
  for (const auto& kind : device_kinds()) {
    if (kind.open_kept == nullptr) continue;
    std::vector<KeptFile> files;
    const auto opened = kind.open_kept(config_, files);
    for (auto& [file, made] : files) {
      disk_files_.push_back(std::move(file));
      if (!made.empty()) made_.push_back(std::move(made));
    }
    if (!errors.add(opened)) return errors.result();  // nobody opens what is on them
  }
  // An archive is not unpacked in vain.
  if (!errors.empty() && start_.snapshot && !start_.snapshot->is_directory()) {
    return errors.result();
  }
  const auto created = create_machine();
  if (errors.empty()) return created;
  if (errors.add(created)) (void)errors.add(machine_->devices().wait_ready());
  return errors.result();
}

Machine::Environment Session::environment() {
  const unsigned generation = ++generation_;
  return {.serial = console_.get(),
          .on_end =
              [this, generation](End how, std::string text) {
                loop_->post([this, generation, how, text = std::move(text)] {
                  if (generation == generation_) on_end(how, text);
                });
              },
          .waits = start_.waits};
}

Result<void> Session::create_machine() {
  const auto snapshot = std::exchange(start_.snapshot, nullptr);
  if (!snapshot) {
    // Before they are read. Where they cannot be, who reads them says why. A machine that ends when
    // its guest resets never boots again, nor do those that are restored from it.
    auto boot = config_.reboot ? snapshot::open_boot_files(config_.kernel, config_.initrd)
                               : snapshot::BootFiles();
    machine_ = TRY(Machine::create(config_, environment()));
    boot_ = TRY(std::move(boot));
    note_device_sockets({});
    return {};
  }
  for (auto& file : TRY(snapshot->unpack_disks())) disk_files_.push_back(std::move(file));
  // A guest that resets after it was restored boots the kernel that the person named, or else what
  // the saved one booted.
  boot_ = TRY(config_.kernel.empty() ? snapshot->open_boot()
                                     : snapshot::open_boot_files(config_.kernel, config_.initrd));
  auto provided =
      TRY(snapshot->provide_memory([this](const std::string& text) { end_with_damage(text); }));
  pages_ = std::move(provided.server);
  auto machine = Machine::restore(
      config_, environment(),
      {.memory = std::move(provided.memory), .sections = snapshot->take_sections()});
  if (!machine) return fail("snapshot '{}': {}", snapshot->path(), machine.error().message());
  machine_ = std::move(*machine);
  note_device_sockets({});
  saver_->restored_from(*machine_, snapshot->digest(), start_.attached);
  if (snapshot->is_directory()) watch_working_set(*snapshot);
  return {};
}

Result<void> Session::start_machine() {
  want_paused_ = told_paused_ = start_.begin == Begin::paused;
  TRY(machine_->start(start_.begin));
  loop_->add_timer(EventLoop::Clock::now() + kStartTime, &unmap_own_code);
  return {};
}

void Session::note_socket(const std::string& path) {
  auto file = SocketFile::at(path);
  std::lock_guard lock(sockets_mutex_);
  std::erase_if(sockets_, [](const SocketFile& socket) { return !socket.is_there(); });
  if (file) sockets_.push_back(std::move(*file));
}

// Those that are not `before`'s.
void Session::note_device_sockets(const MachineConfig& before) {
  for (const auto& kind : device_kinds()) {
    if (kind.socket == nullptr) continue;
    const auto path = kind.socket(config_);
    if (!path.empty() && path != kind.socket(before)) note_socket(path);
  }
}

// On any thread. Others wait for what never comes, a page of the guest's memory or a device, the
// session's own thread perhaps among them: nothing can be taken apart but the names of its sockets,
// and the terminal's mode, which std::at_quick_exit() restores.
void Session::end_with_damage(const std::string& text) {
  fmt::print(stderr, "vmm: {}\n", text);
  {
    std::lock_guard lock(sockets_mutex_);
    for (const auto& socket : sockets_) socket.remove();
  }
  // check: aborts allowed, as said
  std::quick_exit(kExitInternal);
}

void Session::watch_working_set(const snapshot::Source& snapshot) {
  restored_from_ = RestoredFrom{snapshot.path(), snapshot.digest()};
  auto set =
      snapshot::read_working_set(snapshot.path(), snapshot.digest(), machine_->memory().size());
  if (!set.empty()) return bring_in(std::move(set));
  loop_->add_timer(EventLoop::Clock::now() + kWorkingSetTime, [this, generation = generation_] {
    if (generation != generation_ || !is_there() || working_set_is_known_) return;
    record_working_set([](const Result<void>& recorded) {
      if (!recorded) log::info("working set: {}", recorded.error().message());
    });
  });
}

void Session::bring_in(snapshot::WorkingSet set) {
  const auto& memory = machine_->memory();
  auto first = snapshot::take_first(set, machine_->maps_memory_ahead() ? kMappedAhead : 0);
  if (!first.empty()) {
    machine_->set_first_work([&memory, first = std::move(first)](kvm::Vcpu& vcpu) {
      snapshot::bring_in(memory, first, [&vcpu](GuestAddress base, std::uint64_t length) {
        return vcpu.map_memory(base, length) == length;
      });
    });
  }
  if (!set.empty()) prefetcher_ = std::make_unique<snapshot::Prefetcher>(memory, std::move(set));
}

void Session::record_working_set(const std::function<void(const Result<void>&)>& done) {
  if (!restored_from_ || !is_there()) {
    return done(fail("the machine was not restored from a snapshot's directory"));
  }
  working_set_is_known_ = true;
  tasks_->beside(
      "working-set",
      [&memory = machine_->memory(), from = *restored_from_] {
        return snapshot::record_working_set(memory, from.directory, from.digest);
      },
      [this, done](const Result<void>& recorded) {
        done(recorded);
        go_on();
      });
}

Session::~Session() {
  // The machine first: its threads use the console, and post to the loop.
  tasks_.reset();
  saver_.reset();
  jobs_.reset();
  prefetcher_.reset();
  machine_.reset();
  pages_.reset();
  console_.reset();
  for (const auto& path : made_) ::unlink(path.c_str());
}

Result<void> Session::watch_signals() {
  const sigset_t set = stop_signals();
  // Before any thread starts, as they inherit it.
  if (::pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0) return fail("cannot block signals");
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGCHLD, SIG_DFL);  // who ignores it is not told how its children ended
  signals_ = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return fail_errno("cannot receive signals");
  return loop_->watch(signals_.get(), EPOLLIN, [this](std::uint32_t) { on_signal(); });
}

std::string Session::descriptor_path(const UniqueFd& fd) {
  return fmt::format("/proc/self/fd/{}", fd.get());
}

double Session::age() const {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() -
                                                   start_.program_started)
      .count();
}

Result<void> Session::check_start() const {
  log::info("the machine is made, {:.3f} ms after the program began", age());
  return machine_->check_start();
}

int Session::run() {
  if (const auto started = start_machine(); !started) {
    finish(kExitFailed, started.error().message());
  } else {
    made_.clear();
    publish(protocol::Started{});
    log::info("the guest {}, {:.3f} ms after the program began",
              machine_->paused() ? "is ready" : "runs", age());
    if (start_.ready) {
      // Whoever waits may be gone: no concern of the guest.
      (void)write_all(start_.ready.get(), std::as_bytes(std::span("1\n", 2)));
      start_.ready.reset();
    }
  }
  // The loop is what takes the machine apart, too: it has another try at that.
  for (int tries = 0;; ++tries) {
    const auto ran = caught([this] { loop_->run(); });
    if (ran) break;
    if (tries > 0) end_with_damage(ran.error().message());
    finish(kExitInternal, ran.error().message());
    exit_code_ = kExitInternal;  // whatever it was to end with before
  }
  return exit_code_;
}

void Session::on_signal() {
  signalfd_siginfo info;
  while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
    ask_to_stop(info.ssi_signo == SIGINT   ? "SIGINT"
                : info.ssi_signo == SIGHUP ? "SIGHUP"
                                           : "SIGTERM");
  }
}

void Session::ask_to_stop(const char* who) {
  if (finished_) {
    // Asked twice, nobody waits for a snapshot.
    if (std::exchange(stopping_, true)) cancel_jobs();
    return;
  }
  if (!machine_ && !rebooting_) return;
  if (stopping_) {
    finish(kExitKilled, fmt::format("ended by a second request ({})", who));
    return;
  }
  stopping_ = true;
  if (ends_saved_) {
    log::info("{}: the machine ends when its state is saved", who);
    return;
  }
  log::info("{}: the guest is asked to power off", who);
  press_power_button();
}

void Session::on_end(End how, const std::string& text) {
  if (finished_) return;
  if (how == End::reset && config_.reboot && !stopping_) {
    // A kernel that dies before it has a driver to say so resets, time and again.
    const auto now = std::chrono::steady_clock::now();
    quick_resets_ = now - std::exchange(booted_, now) < kQuickReset ? quick_resets_ + 1 : 0;
    if (quick_resets_ == kMostQuickResets) {
      finish(kExitPanic, fmt::format("the guest reset {} times in a row within {} s of its start",
                                     quick_resets_, kQuickReset.count()));
      return;
    }
    if (!boot_.kernel) {
      fmt::print(stderr,
                 "vmm: {}; its snapshot has no kernel, and --kernel named none, so nothing boots "
                 "again\n",
                 text);
      finish(kExitPowerOff, text);
      return;
    }
    log::info("{}: starting it again", text);
    reboot();
    return;
  }
  finish(exit_code_of(how), text);
}

// The files are those that it booted before, whatever has their names now.
MachineConfig Session::booting_again() const {
  MachineConfig config = config_;
  config.kernel = descriptor_path(boot_.kernel);
  config.initrd = boot_.initrd ? descriptor_path(boot_.initrd) : "";
  return config;
}

void Session::reboot() {
  last_status_ = status_json(named_, *machine_, "rebooting",
                             std::chrono::steady_clock::now() - started_, generation_ - 1);
  rebooting_ = true;
  restored_from_.reset();
  go_on();
}

// Nobody looks at the machine any more, nor saves it.
void Session::make_again() {
  making_ = true;
  saver_->forget();
  watch_for_hangs();
  tasks_->in_order(
      [this, config = booting_again(), environment = environment()]() -> Result<void> {
        prefetcher_.reset();
        machine_.reset();
        pages_.reset();
        auto machine = Machine::create(config, environment);
        if (!machine) {
          return fail("what the guest booted before: {}", machine.error().message());
        }
        machine_ = std::move(*machine);
        return {};
      },
      [this](Result<void> made) { start_again(std::move(made)); });
}

void Session::start_again(Result<void> made) {
  const auto failed = [this](const Error& error) {
    finish(kExitInternal, fmt::format("cannot reboot: {}", error.message()));
  };
  making_ = rebooting_ = false;
  if (!made) return failed(made.error());
  note_device_sockets({});  // another file of the same name
  if (finished_) return go_on();
  ++held_;
  told_paused_ = false;
  tasks_->in_order([this] { return machine_->start(Begin::running); },
                   [this, failed](const Result<void>& started) {
                     --held_;
                     if (!started) return failed(started.error());
                     loop_->add_timer(EventLoop::Clock::now() + kStartTime, &unmap_own_code);
                     publish(protocol::Started{.reboots = generation_ - 1});
                     go_on();
                   });
}

void Session::finish(int exit_code, const std::string& text) {
  if (finished_) return;
  finished_ = true;
  exit_code_ = exit_code;
  reason_ = text;
  if (exit_code == kExitPowerOff) {
    log::info("{}", text);
  } else {
    fmt::print(stderr, "vmm: {}\n", text);
  }
  if (exit_code == kExitPanic) publish(protocol::Panic{text});
  // Ended by force, nobody waits for a copy of the disks; else a snapshot that was begun is made.
  if (exit_code == kExitKilled || exit_code == kExitInternal) cancel_jobs();
  go_on();
}

void Session::cancel_jobs() {
  jobs_->cancel_all();
  ends_since_ = std::chrono::steady_clock::now();
}

void Session::go_on() {
  const bool is_busy = !jobs_->empty() || tasks_->beside() > 0 || making_ || !changing_.empty();
  if (finished_) {
    if (jobs_->empty() && !ends_since_) ends_since_ = std::chrono::steady_clock::now();
    watch_for_hangs();
    if (!is_busy && !ending_) end();
  } else if (rebooting_) {
    if (!is_busy) make_again();
  } else {
    do_what_is_wanted();
  }
}

void Session::end() {
  ending_ = true;
  tasks_->in_order(
      [this]() -> Result<void> {
        prefetcher_.reset();
        machine_.reset();
        pages_.reset();
        return {};
      },
      [this](const Result<void>&) {
        tell_end(exit_code_, reason_);
        loop_->stop();
      });
}

void Session::tell_end(int exit_code, const std::string& reason) {
  const protocol::Ended ended{.code = exit_code, .reason = reason};
  publish(ended);
  for (const auto& answer : std::exchange(waiting_, {})) answer(protocol::to_json(ended));
}

void Session::watch_for_hangs() {
  if (std::exchange(watching_, true)) return;
  loop_->add_timer(EventLoop::Clock::now() + start_.patience / 10, [this] {
    watching_ = false;
    look_for_hangs();
  });
}

void Session::look_for_hangs() {
  std::string what = start_.waits->longer_than(start_.patience);
  const bool is_late =
      ends_since_ && std::chrono::steady_clock::now() - *ends_since_ > start_.patience;
  // Late as a whole: what it waits for now, if not for long, says more than "the machine".
  if (what.empty() && is_late && jobs_->empty()) what = start_.waits->longer_than({});
  if (what.empty() && is_late) what = jobs_->empty() ? "the machine" : "the snapshot";
  if (!what.empty()) {
    const auto text =
        fmt::format("{} does not stop within {} s", what,
                    std::chrono::duration_cast<std::chrono::seconds>(start_.patience).count());
    tell_end(kExitInternal, text);
    end_with_damage(text);
  }
  if (tasks_->in_order() > 0 || finished_) watch_for_hangs();
}

}  // namespace vmm
