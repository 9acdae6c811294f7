#include "src/hypervisor/session/session.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "devices/backend/disk/disk.h"
#include "devices/virtio/balloon/balloon_device.h"
#include "src/base/log.h"
#include "src/base/own_code.h"
#include "src/base/text.h"
#include "src/hypervisor/session/report.h"

namespace vmm {
namespace {

// A guest that does not answer its power button in this time is ended.
constexpr auto kStopDeadline = std::chrono::seconds(30);

// After this time nothing of a start goes on.
constexpr auto kStartTime = std::chrono::milliseconds(1000);

// What a guest touches in this time after its first restore is brought in by later ones at once.
constexpr auto kWorkingSetTime = std::chrono::milliseconds(1000);

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
  // A made-up address stays the same when the guest reboots.
  for (auto& net : config_.nets) {
    if (!net.mac) net.mac = net::MacAddress::random();
  }
  loop_ = TRY(EventLoop::create());
  saver_ = std::make_unique<Saver>(*loop_, start_.config_text);
  TRY(watch_signals());
  if (!config_.control.empty()) {
    control_ = TRY(ControlServer::create(
        config_.control, *loop_,
        [this](const protocol::Request& request, const ControlServer::Answer& answer) {
          serve(request, answer);
        }));
  }
  // Machines come and go when the guest reboots; the console stays.
  console_ =
      TRY(chardev::open_chardev(config_.serial, *loop_,
                                {.power_button = [this] { ask_to_stop("the console"); },
                                 .quit = [this] { finish(kExitKilled, "ended by the console"); }}));
  // What a guest wrote is there when it reboots.
  for (auto& disk : config_.disks) {
    if (!disk.scratch) continue;
    disk_files_.push_back(TRY(disk::open_scratch(disk)));
    if (!disk.layer.empty()) made_.push_back(disk.layer);
  }
  return create_machine();
}

Machine::Environment Session::environment() {
  const unsigned generation = ++generation_;
  return {.serial = console_.get(), .on_end = [this, generation](End how, std::string text) {
            loop_->post([this, generation, how, text = std::move(text)] {
              if (generation == generation_) on_end(how, text);
            });
          }};
}

Result<void> Session::create_machine() {
  // A guest that resets after it was restored boots its kernel, as it would have.
  const auto snapshot = std::exchange(start_.snapshot, nullptr);
  if (!snapshot) {
    machine_ = TRY(Machine::create(config_, environment()));
    return {};
  }
  for (auto& file : TRY(snapshot->unpack_disks())) disk_files_.push_back(std::move(file));
  auto provided =
      TRY(snapshot->provide_memory([this](const std::string& text) { end_with_damage(text); }));
  pages_ = std::move(provided.server);
  auto machine = Machine::restore(
      config_, environment(),
      {.memory = std::move(provided.memory), .sections = snapshot->take_sections()});
  if (!machine) return fail("snapshot '{}': {}", snapshot->path(), machine.error().message());
  machine_ = std::move(*machine);
  saver_->restored_from(*machine_, snapshot->digest());
  if (const auto* reader = dynamic_cast<snapshot::Reader*>(snapshot.get()); reader != nullptr) {
    watch_working_set(*reader);
  }
  return {};
}

Result<void> Session::start_machine(Begin begin) {
  TRY(machine_->start(begin));
  loop_->add_timer(EventLoop::Clock::now() + kStartTime, &unmap_own_code);
  return {};
}

// On the page server's thread. Others wait in the guest's memory for a page that will never come,
// the session's own perhaps among them: nothing can be taken apart but the names of its sockets.
void Session::end_with_damage(const std::string& text) const {
  fmt::print(stderr, "vmm: {}\n", text);
  if (!config_.control.empty()) ::unlink(config_.control.c_str());
  if (config_.vsock) ::unlink(config_.vsock->path.c_str());
  if (config_.serial.kind == chardev::Kind::socket) ::unlink(config_.serial.path.c_str());
  // check: aborts allowed, as said; by exit, so that the terminal's mode is restored
  std::exit(kExitInternal);
}

// A fork sees zeroes where a page is missing, and a suspended guest should not wait for the rest.
Result<void> Session::finish_memory() {
  if (!pages_) return {};
  TRY(pages_->finish());
  pages_.reset();
  return {};
}

void Session::watch_working_set(const snapshot::Reader& snapshot) {
  auto extents = snapshot::read_working_set(snapshot.directory(), snapshot.digest(),
                                            machine_->memory().size());
  if (!extents.empty()) {
    prefetcher_ = std::make_unique<snapshot::Prefetcher>(machine_->memory(), std::move(extents));
    return;
  }
  loop_->add_timer(EventLoop::Clock::now() + kWorkingSetTime, [this, generation = generation_,
                                                               directory = snapshot.directory(),
                                                               digest = snapshot.digest()] {
    if (generation != generation_ || !machine_) return;
    const auto recorded = snapshot::record_working_set(machine_->memory(), directory, digest);
    if (!recorded) log::info("working set: {}", recorded.error().message());
  });
}

Session::~Session() {
  // The machine first: its threads use the console, and post to the loop.
  saver_.reset();
  prefetcher_.reset();
  machine_.reset();
  pages_.reset();
  console_.reset();
  for (const auto& path : made_) ::unlink(path.c_str());
}

Result<void> Session::watch_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  // Before any thread starts, as they inherit it.
  if (::pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0) return fail("cannot block signals");
  std::signal(SIGPIPE, SIG_IGN);
  signals_ = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return fail_errno("cannot receive signals");
  return loop_->watch(signals_.get(), EPOLLIN, [this](std::uint32_t) { on_signal(); });
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
  if (const auto started = start_machine(start_.begin); !started) {
    finish(kExitFailed, started.error().message());
  } else {
    made_.clear();
    log::info("the guest {}, {:.3f} ms after the program began",
              machine_->paused() ? "is ready" : "runs", age());
    if (start_.ready) {
      // Whoever waits may be gone: no concern of the guest.
      (void)write_all(start_.ready.get(), std::as_bytes(std::span("1\n", 2)));
      start_.ready.reset();
    }
  }
  loop_->run();
  // Ended by force, nobody waits for a copy of the disks; else a snapshot that was begun is made.
  if (exit_code_ == kExitKilled) saver_->cancel();
  saver_->settle();
  prefetcher_.reset();
  machine_.reset();
  pages_.reset();
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
  if (stopping_) {
    finish(kExitKilled, fmt::format("ended by a second request ({})", who));
    return;
  }
  log::info("{}: the guest is asked to power off", who);
  stopping_ = true;
  machine_->resume();  // a paused guest hears nothing
  machine_->press_power_button();
  loop_->add_timer(EventLoop::Clock::now() + kStopDeadline, [this] {
    finish(kExitKilled, fmt::format("the guest did not power off within {} s, it was ended",
                                    kStopDeadline.count()));
  });
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
    log::info("{}: starting it again", text);
    reboot();
    return;
  }
  finish(exit_code_of(how), text);
}

void Session::reboot() {
  saver_->settle();
  saver_->forget();
  prefetcher_.reset();
  machine_.reset();
  pages_.reset();
  auto result = create_machine();
  if (result) result = start_machine(Begin::running);
  if (!result) finish(kExitInternal, fmt::format("cannot reboot: {}", result.error().message()));
}

void Session::finish(int exit_code, const std::string& text) {
  if (finished_) return;
  finished_ = true;
  exit_code_ = exit_code;
  if (exit_code == kExitPowerOff) {
    log::info("{}", text);
  } else {
    fmt::print(stderr, "vmm: {}\n", text);
  }
  loop_->stop();
}

std::string Session::state() const {
  if (stopping_) return "stopping";
  return machine_->paused() ? "paused" : "running";
}

void Session::serve(const protocol::Request& request, const ControlServer::Answer& answer) {
  if (!machine_ || finished_) return answer(fail("the machine is ending"));
  if (request.command == "snapshot") return snapshot(request, answer);
  answer(serve_now(request));
}

void Session::snapshot(const protocol::Request& request, const ControlServer::Answer& answer) {
  SaveRequest save{.directory = request.argument};
  constexpr std::array<std::string_view, 3> kOptions = {"incremental", "live", "stop"};
  for (const auto& [name, value] : request.options) {
    if (name == "incremental") {
      save.parent = value;
    } else if (name == "live") {
      save.live = true;
    } else if (name == "stop") {
      save.stop = true;
    } else {
      return answer(fail("snapshot has no option '{}'{}", name, did_you_mean(name, kOptions)));
    }
  }
  if (save.directory.empty()) return answer(fail("snapshot takes a directory"));
  if (const auto finished = finish_memory(); !finished) {
    return answer(std::unexpected(finished.error()));
  }
  saver_->save(*machine_, save, [this, answer, stop = save.stop](Result<std::string> result) {
    const bool ends = stop && result;
    answer(std::move(result));
    if (ends) finish(kExitPowerOff, "its state was saved");
  });
}

Result<std::string> Session::serve_now(const protocol::Request& request) {
  if (request.command == "status") {
    return status_json(config_, *machine_, state(), std::chrono::steady_clock::now() - started_,
                       generation_ - 1);
  }
  if (request.command == "metrics") return metrics_json(*machine_);
  if (request.command == "balloon") return balloon(request.argument);
  if (request.command == "pause") {
    machine_->pause();
  } else if (request.command == "resume") {
    machine_->resume();
  } else if (request.command == "power-button") {
    machine_->resume();
    machine_->press_power_button();
  } else if (request.command == "stop") {
    finish(kExitKilled, "ended through the control socket");
  } else {
    constexpr std::array<std::string_view, 8> kCommands = {
        "pause", "resume", "stop", "power-button", "status", "balloon", "metrics", "snapshot"};
    return fail("unknown command '{}'{}", request.command,
                did_you_mean(request.command, kCommands));
  }
  return std::string();
}

Result<std::string> Session::balloon(const std::string& argument) {
  auto* device = machine_->devices().find<virtio::BalloonDevice>("balloon");
  if (device == nullptr)
    return fail("the machine has no balloon: it was started without --balloon");
  TRY(device->set_target(TRY(parse_size(argument))));
  return std::string();
}

}  // namespace vmm
