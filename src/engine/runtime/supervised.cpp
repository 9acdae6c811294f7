#include "src/engine/runtime/supervised.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>

#include "src/base/new_file.h"
#include "src/engine/runtime/container_machine.h"
#include "src/engine/runtime/container_snapshot.h"
#include "src/engine/runtime/guest_request.h"
#include "src/engine/runtime/ports.h"
#include "src/engine/runtime/supervisor.h"
#include "src/protocol/control_client.h"

namespace vmm::engine {

namespace agent = protocol::agent;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr milliseconds kFirstRetry{5}, kLastRetry{80}, kLockTurn{20};
constexpr seconds kKillPatience{10};   // of a machine whose agent was told to kill
constexpr seconds kPowerPatience{20};  // of a machine that is to write its disks and end
constexpr seconds kTellPatience{5};    // of who does not read what is told
constexpr int kSetupFailed = 125;
constexpr std::size_t kKeptErrors = 4096;

// Signals are 1 to 64; a client may say anything.
std::uint64_t bit_of(int number) {
  return number >= 1 && number < NSIG ? std::uint64_t{1} << (number - 1) : 0;
}

}  // namespace

Supervised::Supervised(EventLoop& loop, std::string root, std::string id)
    : loop_(loop),
      root_(std::move(root)),
      id_(std::move(id)),
      directory_(fmt::format("{}/containers/{}", root_, id_)) {}

// ---- the start

void Supervised::begin() {
  lock_deadline_ = EventLoop::Clock::now() + kBootPatience;
  make_process();
  look_for_lock();
}

// The lock has no descriptor that the loop takes. Meanwhile sessions are heard: the start may be
// given up.
void Supervised::look_for_lock() {
  if (phase_ != Phase::waiting) return;
  auto lock = take_lock();
  if (lock && !*lock) {
    loop_.add_timer(EventLoop::Clock::now() + kLockTurn, [this] { look_for_lock(); });
    return;
  }
  phase_ = Phase::starting;
  const auto prepared = lock ? prepare(std::move(**lock)) : std::unexpected(lock.error());
  if (!prepared) fail_start(kSetupFailed, prepared.error().message());
}

// None: of one that another command works with, or whose other supervisor starts it, it is waited
// for; of one that runs already it is not.
Result<std::optional<ContainerLock>> Supervised::take_lock() {
  auto lock = ContainerLock::take(directory_);
  if (lock && *lock) return lock;
  auto store = TRY(Store::open(root_));
  auto found = TRY(Containers(store).by_id(id_));
  if (!found) return fail("No such container: {}", id_);
  if (!lock) return lock;
  if (found->is_running()) return fail("container {} {}", id_.substr(0, 12), kAlreadyRunning);
  container_ = std::move(*found);  // says which input is taken
  if (EventLoop::Clock::now() > lock_deadline_) {
    return fail("container {} is in use by another command", id_.substr(0, 12));
  }
  return std::nullopt;
}

Result<void> Supervised::prepare(ContainerLock lock) {
  {
    auto store = TRY(Store::open(root_));
    auto found = TRY(Containers(store).by_id(id_));
    if (!found) return fail("No such container: {}", id_);
    container_ = std::move(*found);
    lock_ = std::move(lock);  // from here on its end is ours to write
    TRY(make_disks(store, container_));
    if (container_.goes_on()) {
      snapshot_ = ContainerSnapshots(store).machine(container_.snapshot);
    }
  }
  const auto& spec = container_.spec;
  files_ = TRY(find_machine_files(spec.kernel));
  monitor_program_ = TRY(find_monitor());
  if (spec.network != "none") TRY(check_host_ports(spec.ports));
  TRY(start_request(container_));  // what cannot be asked for needs no machine
  log_ = TRY(LogWriter::open(directory_ + "/log", spec.log_size, spec.log_files));
  TRY(listen());
  if (!spec.cold && !snapshot_) {
    recipe_ = TRY(template_recipe(spec, files_, monitor_program_));
    template_ = MachineTemplates(root_).find(recipe_->name);
  }
  TRY(start_machine());
  // The disks have their names before a row says that it ran; meanwhile the machine starts.
  TRY(sync_directory(directory_));
  expect_agent();
  return {};
}

Result<void> Supervised::start_machine() {
  const auto origin = template_ ? std::optional(template_->path) : snapshot_;
  const auto words = origin ? restore_words(container_, *origin) : boot_words(container_, files_);
  monitor_ = TRY(Monitor::start(monitor_program_, words, directory_, lock_->fd()));
  machine_over_ = false;
  monitor_watch_ = std::make_unique<Watch>(loop_, monitor_.pidfd.get(),
                                           [this](std::uint32_t) { machine_ended(); });
  monitor_watch_->want(EPOLLIN);
  errors_watch_ = std::make_unique<Watch>(loop_, monitor_.errors.get(),
                                          [this](std::uint32_t) { read_errors(); });
  errors_watch_->want(EPOLLIN);
  // Not before the guest runs is anybody there.
  ready_watch_ =
      std::make_unique<Watch>(loop_, monitor_.ready.get(), [this](std::uint32_t) { guest_runs(); });
  ready_watch_->want(EPOLLIN);
  retry_ = kFirstRetry;
  return {};
}

// For all that comes before the process is asked for: a guest that hangs refuses nothing.
void Supervised::expect_agent() {
  const bool goes_on = template_ || snapshot_;
  loop_.add_timer(EventLoop::Clock::now() + (goes_on ? kRestorePatience : kBootPatience),
                  [this, machine = monitor_.pid] {
                    if (machine == monitor_.pid) give_up_waiting();
                  });
}

void Supervised::give_up_waiting() {
  const std::string why = "the machine's agent does not answer";
  if (phase_ != Phase::starting || !process_over_ || boot_instead(why)) return;
  fail_start(kSetupFailed, why);
}

// A template that does not work is no reason for a container not to start: its machine boots.
// Whether it does.
bool Supervised::boot_instead(const std::string& why) {
  if (phase_ != Phase::starting || !template_ || !process_over_) return false;
  if (!failed_template_) failed_template_ = FailedTemplate{*template_, why};
  if (!machine_over_) {
    kill_machine();  // here again when it has ended
    return true;
  }
  link_.reset();
  machine_.reset();
  answers_ = 0;
  template_.reset();
  errors_.clear();
  const auto started = start_machine();
  if (!started) {
    fail_start(kSetupFailed, started.error().message());
  } else {
    expect_agent();
  }
  return true;
}

void Supervised::guest_runs() {
  ready_watch_.reset();
  look_for_agent();
}

// Input that comes before its start waits in it.
void Supervised::make_process() {
  process_ = std::make_unique<AgentProcess>(
      loop_, ".", agent::kFirstProcess,
      AgentProcess::Callbacks{
          [this] { process_started(); },
          [this](const agent::Failed& failed) { process_failed(failed); },
          [this](wire::Stream stream, std::string_view bytes) { process_output(stream, bytes); },
          [this] { balance(); }, [this](const agent::Exited& exited) { process_exited(exited); },
          [this] { process_lost(); }});
}

Result<void> Supervised::listen() {
  if (::chdir(directory_.c_str()) < 0) return fail_errno("cannot enter '{}'", directory_);
  const auto pid = fmt::format("{}\n", ::getpid());
  const auto file = TRY(open_file("pid", O_WRONLY | O_CREAT | O_TRUNC));
  TRY(write_all(file.get(), std::as_bytes(std::span(pid))));
  listener_.emplace(TRY(UnixListener::create("supervisor")));
  acceptor_.emplace(loop_, listener_->fd(),
                    [this](UniqueFd client) { connect(std::move(client)); });
  return acceptor_->start();
}

// Who connects before the guest's driver is there waits in the monitor; before the agent listens,
// the connection is refused.
void Supervised::look_for_agent() {
  if (phase_ != Phase::starting || machine_over_ || is_given_up()) return;
  link_ = std::make_unique<AgentLink>(
      loop_, ".", agent::Header{agent::Kind::machine, {}}, [this](Result<UniqueFd> socket) {
        if (socket) return agent_found(std::move(*socket));
        loop_.add_timer(EventLoop::Clock::now() + retry_, [this, machine = monitor_.pid] {
          if (machine == monitor_.pid) look_for_agent();
        });
        retry_ = std::min(2 * retry_, kLastRetry);
      });
}

void Supervised::agent_found(UniqueFd socket) {
  if (phase_ != Phase::starting || is_given_up()) return;
  machine_ = std::make_unique<Channel>(
      loop_, std::move(socket),
      Channel::Callbacks{[this](const agent::Message& message) { machine_answered(message); },
                         nullptr, nullptr});
  machine_->send(configure_request(container_));
  // What stood still when it was saved, goes on.
  if (snapshot_) {
    machine_->send(agent::Freeze{false});
  } else {
    machine_->send(mount_request(container_));
  }
}

void Supervised::machine_answered(const agent::Message& message) {
  if (phase_ != Phase::starting || is_given_up()) return;
  if (message.type == agent::Failed::kType) {
    const auto failed = agent::decode<agent::Failed>(message);
    const auto why = failed ? failed->text : failed.error().message();
    if (boot_instead(why)) return;
    return fail_start(kSetupFailed, why);
  }
  constexpr unsigned kRequests = 2;
  if (++answers_ != kRequests) return;
  process_over_ = false;
  auto start = start_request(container_).value_or(agent::Start());
  if (snapshot_) {
    process_->follow(std::move(start));
  } else {
    process_->start(std::move(start));
  }
}

void Supervised::process_started() {
  if (phase_ != Phase::starting) return;
  const auto written = [this]() -> Result<void> {
    auto store = TRY(Store::open(root_));
    return Containers(store).set_running(id_);
  }();
  if (!written) return fail_start(kSetupFailed, written.error().message());
  phase_ = Phase::running;
  started_ = true;
  note_template();
  for (const auto& session : sessions_) session->send(wire::Started{});
  for (int number = 1; number < NSIG; ++number) {
    if ((kept_signals_ & bit_of(number)) != 0) signal(number);
  }
  if (snapshot_) note_working_set(*snapshot_);
  if (template_) note_working_set(template_->path);
  if (recipe_ && !template_) MachineTemplates(root_).make_beside(*recipe_);
}

// Whether it works, as booting does.
void Supervised::note_template() {
  if (!recipe_) return;
  const MachineTemplates templates(root_);
  if (template_) return templates.note_success(recipe_->name);
  if (!failed_template_) return;
  const auto& [which, why] = *failed_template_;
  if (!templates.note_failure(recipe_->name, which, why)) return;
  for (const auto& session : sessions_) session->send(wire::Notice{given_up_warning(why)});
}

// What a start touches is the same for all from one origin: the first says what it is.
void Supervised::note_working_set(const std::string& origin) {
  if (::access((origin + "/working-set").c_str(), F_OK) == 0) return;
  const auto control = protocol::ControlClient::connect("control");
  if (control) (void)control->send(protocol::encode_request(1, protocol::WorkingSet{}));
}

void Supervised::process_failed(const agent::Failed& failed) {
  process_over_ = true;
  const auto arguments = container_.spec.arguments();
  const auto why = explain(failed, arguments.empty() ? "" : arguments[0]);
  fail_start(why.code, why.text);
}

void Supervised::fail_start(int code, const std::string& text) {
  if (phase_ == Phase::ending || phase_ == Phase::over) return;
  failed_code_ = code;
  end_ = ContainerEnd{code, false, text};
  phase_ = Phase::ending;
  process_over_ = true;
  kill_machine();
  conclude();
}

// ---- while it runs

void Supervised::connect(UniqueFd client) {
  sessions_.push_back(std::make_unique<Session>(
      loop_, std::move(client),
      Session::Owner{
          [this](Session& session, const agent::Message& message) { hear(session, message); },
          [this](Session& session) { leave(session); }, [this] { balance(); }}));
  if (phase_ == Phase::running) sessions_.back()->send(wire::Started{});
}

void Supervised::hear(Session& session, const agent::Message& message) {
  const bool takes_input = container_.spec.open_input && session.attached().input;
  if (const auto attach = agent::decode<wire::Attach>(message)) {
    session.attach(*attach);
  } else if (const auto input = agent::decode<wire::Input>(message)) {
    if (process_ && takes_input) process_->write_input(wire::to_view(input->bytes));
  } else if (message.type == wire::InputEnd::kType) {
    if (process_ && takes_input && container_.spec.input_once) process_->end_input();
  } else if (const auto resize = agent::decode<wire::Resize>(message)) {
    if (process_) process_->resize(resize->size);
  } else if (const auto asked = agent::decode<wire::Signal>(message)) {
    signal(asked->number);
  } else if (const auto request = agent::decode<wire::Stop>(message)) {
    stop(request->number, request->seconds);
  }
  balance();
}

void Supervised::leave(Session& session) {
  if (process_ && session.attached().input && container_.spec.input_once) process_->end_input();
  loop_.post([this, &session] {
    std::erase_if(sessions_, [&](const auto& one) { return one.get() == &session; });
    balance();
    if (phase_ == Phase::waiting && sessions_.empty()) return loop_.stop();  // nobody wants it
    if (phase_ == Phase::over) stop_when_told();
  });
}

// Outputs wait for the slowest session, inputs for the process (and for its start).
void Supervised::balance() {
  constexpr std::size_t kMuchInput = 256u << 10;
  const bool slow = std::ranges::any_of(sessions_, [](const auto& one) { return one->is_slow(); });
  const bool full = process_ && process_->input_pending() > kMuchInput;
  if (process_) process_->set_output_reading(!slow);
  for (const auto& session : sessions_) {
    session->set_reading(!full || !session->attached().input);
  }
  if (phase_ == Phase::over) stop_when_told();
}

void Supervised::process_output(wire::Stream stream, std::string_view bytes) {
  log_->write(stream, bytes);
  for (const auto& session : sessions_) session->output(stream, bytes);
  balance();
}

void Supervised::signal(int number) {
  if (phase_ == Phase::waiting || phase_ == Phase::starting) {
    // For the process, once it runs. Who asks for the end again does not wait for that, nor for
    // another command.
    const auto bit = bit_of(number);
    const bool again = phase_ == Phase::waiting || (kept_signals_ & bit) != 0;
    kept_signals_ |= bit;
    if (number != SIGKILL && !(again && (number == SIGTERM || number == SIGINT))) return;
    end_ = ContainerEnd{128 + number, false, ""};
    phase_ = Phase::ending;
    started_ = true;
    kill_machine();
    return conclude();
  }
  if (phase_ != Phase::running || !process_) return;
  process_->signal(number);
  if (number == SIGKILL) kill_machine_after(kKillPatience);
}

void Supervised::stop(int number, std::optional<std::uint32_t> time) {
  signal(number);
  if (number == SIGKILL || !time) return;
  loop_.add_timer(EventLoop::Clock::now() + seconds(*time), [this] { signal(SIGKILL); });
}

void Supervised::stop() {
  stop(stop_signal_of(container_.spec), container_.spec.stop_timeout.value_or(kStopSeconds));
}

// ---- the end

void Supervised::process_exited(const agent::Exited& exited) {
  process_over_ = true;
  const int code = exited.signal != 0 ? 128 + exited.signal : exited.code;
  if (!end_) end_ = ContainerEnd{code, exited.out_of_memory, ""};
  end_machine();
}

void Supervised::process_lost() {
  process_over_ = true;
  if (machine_over_) return conclude();
  // The agent has broken off.
  if (phase_ == Phase::starting) {
    return fail_start(kSetupFailed, "the machine's agent broke the connection off");
  }
  end_machine();
}

// What the container wrote is of no use to anybody when it is removed.
void Supervised::end_machine() {
  if (phase_ != Phase::starting && phase_ != Phase::running) return;
  phase_ = Phase::ending;
  if (machine_over_) return conclude();
  if (container_.spec.auto_remove || !machine_ || !machine_->is_open()) return kill_machine();
  machine_->send(agent::PowerOff{});
  kill_machine_after(kPowerPatience);
}

void Supervised::kill_machine() {
  if (machine_over_) return;
  (void)::syscall(SYS_pidfd_send_signal, monitor_.pidfd.get(), SIGKILL, nullptr, 0);
}

void Supervised::kill_machine_after(seconds time) {
  loop_.add_timer(EventLoop::Clock::now() + time, [this] { kill_machine(); });
}

void Supervised::read_errors() {
  std::array<char, 4096> buffer;
  const ssize_t n = ::read(monitor_.errors.get(), buffer.data(), buffer.size());
  if (n > 0) {
    errors_.append(buffer.data(), static_cast<std::size_t>(n));
    if (errors_.size() > kKeptErrors) errors_.erase(0, errors_.size() - kKeptErrors);
  } else if (n == 0) {
    errors_watch_.reset();
  }
}

void Supervised::machine_ended() {
  int status = 0;
  if (::waitpid(monitor_.pid, &status, WNOHANG) != monitor_.pid) return;
  monitor_watch_.reset();
  while (errors_watch_ && errors_.size() < kKeptErrors) {
    const auto before = errors_.size();
    read_errors();
    if (errors_.size() == before) break;
  }
  machine_over_ = true;
  auto why = last_line(errors_);
  if (WIFSIGNALED(status)) {
    why = fmt::format("the machine was killed by signal {}", WTERMSIG(status));
  } else if (why.empty()) {
    why = "the machine ended by itself";
  }
  if (boot_instead(why)) return;
  if (template_ && phase_ == Phase::starting) {
    // The process may have had effects: it is not started again. The next start boots.
    (void)MachineTemplates(root_).note_failure(recipe_->name, *template_, why);
  }
  if (!end_) {
    const int code = WIFSIGNALED(status)                    ? 128 + WTERMSIG(status)
                     : started_ || phase_ == Phase::running ? kLostExitCode
                                                            : kSetupFailed;
    end_ = ContainerEnd{code, false, why};
    if (phase_ == Phase::starting) failed_code_ = kSetupFailed;
  }
  phase_ = phase_ == Phase::over ? phase_ : Phase::ending;
  if (!process_) process_over_ = true;
  conclude();
}

void Supervised::conclude() {
  if (!process_over_ || !machine_over_ || phase_ == Phase::over) return;
  phase_ = Phase::over;
  if (log_) log_->finish();
  if (lock_) {
    // What cannot be written is repaired by the next command: the lock is free.
    const bool written = write_end().has_value();
    if (!written && !failed_code_) (void)!keep_end(".", *end_);
    if (acceptor_) acceptor_->stop();
    listener_.reset();
    for (const char* file : {"vsock", "control"}) (void)::unlink(file);
    if (written) (void)::unlink("pid");
    lock_.reset();
  }
  const auto code = static_cast<std::uint8_t>(end_->exit_code);
  for (const auto& session : sessions_) {
    if (failed_code_) {
      session->send(wire::Failed{code, end_->error});
    } else {
      session->send(wire::Exited{code});
    }
  }
  loop_.add_timer(EventLoop::Clock::now() + kTellPatience, [this] { loop_.stop(); });
  stop_when_told();
}

Result<void> Supervised::write_end() {
  auto store = TRY(Store::open(root_));
  Containers containers(store);
  if (container_.spec.auto_remove) return containers.remove(id_);
  if (failed_code_) return containers.set_failed(id_, *end_);
  return containers.set_exited(id_, *end_);
}

void Supervised::stop_when_told() {
  if (std::ranges::all_of(sessions_, [](const auto& one) { return one->is_idle(); })) {
    loop_.stop();
  }
}

}  // namespace vmm::engine
