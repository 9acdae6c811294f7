#include "src/base/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace vmm {
namespace {

constexpr int kFirstPassed = 3;

// What posix_spawn takes. The first call that fails counts.
class SpawnActions {
 public:
  SpawnActions() {
    note(::posix_spawn_file_actions_init(&actions_));
    note(::posix_spawnattr_init(&attributes_));
  }
  ~SpawnActions() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  SpawnActions(const SpawnActions&) = delete;

  void open_null(int number) {
    note(::posix_spawn_file_actions_addopen(&actions_, number, "/dev/null", O_RDWR, 0));
  }
  void give(int descriptor, int number) {
    note(::posix_spawn_file_actions_adddup2(&actions_, descriptor, number));
  }
  void close_from(int number) {
    note(::posix_spawn_file_actions_addclosefrom_np(&actions_, number));
  }
  // In a session of its own: the terminal's signals are not for it.
  void set_signals(Child::Program::Ignored ignored) {
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    sigdelset(&all, SIGKILL);
    sigdelset(&all, SIGSTOP);
    note(::posix_spawnattr_setsigmask(&attributes_, &none));
    note(::posix_spawnattr_setsigdefault(&attributes_, &all));
    const int defaults = ignored == Child::Program::Ignored::reset ? POSIX_SPAWN_SETSIGDEF : 0;
    note(::posix_spawnattr_setflags(
        &attributes_, static_cast<short>(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID | defaults)));
  }
  Result<pid_t> run(const Child::Program& program) {
    std::vector<char*> argv;
    for (const auto& word : program.arguments) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    pid_t process = 0;
    if (code_ == 0) {
      code_ = ::posix_spawn(&process, program.path.c_str(), &actions_, &attributes_, argv.data(),
                            environ);
    }
    if (code_ != 0) return fail_errno_text(code_, fmt::format("cannot start '{}'", program.path));
    return process;
  }

 private:
  void note(int code) {
    if (code_ == 0) code_ = code;
  }
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
  int code_ = 0;
};

// Milliseconds for poll(2), rounded up.
int until(Child::Clock::time_point deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - Child::Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, std::numeric_limits<int>::max()));
}

// Whether it can be read before the deadline.
bool wait_readable(int fd, Child::Clock::time_point deadline) {
  for (;;) {
    pollfd wanted{.fd = fd, .events = POLLIN, .revents = 0};
    const int n = ::poll(&wanted, 1, until(deadline));
    if (n > 0) return true;
    if (n == 0 || errno != EINTR) return false;
  }
}

}  // namespace

Result<Pipe> Pipe::create() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) < 0) return fail_errno("cannot create a pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::string ChildEnd::text() const {
  return signal != 0 ? fmt::format("was ended by signal {}", signal)
                     : fmt::format("ended with code {}", code);
}

Result<std::vector<UniqueFd>> copy_descriptors(const std::vector<int>& descriptors, int lowest) {
  std::vector<UniqueFd> copies;
  for (const int descriptor : descriptors) {
    copies.emplace_back(::fcntl(descriptor, F_DUPFD_CLOEXEC, lowest));
    if (!copies.back()) return fail_errno("cannot duplicate descriptor {}", descriptor);
  }
  return copies;
}

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);  // what there is must do
}

Result<Child> Child::spawn(const Program& program) {
  const int end = kFirstPassed + static_cast<int>(program.passed.size());
  auto wanted = program.passed;
  for (const int stream : {program.output, program.error}) {
    if (stream >= 0) wanted.push_back(stream);
  }
  // All numbers given away are below those of the copies: no dup2 in the child can fail or hit one
  // that is yet to be given.
  const auto copies = copy_descriptors(wanted, end);
  if (!copies) {
    return fail("cannot start '{}': {}", program.path, copies.error().message());
  }
  SpawnActions actions;
  actions.open_null(STDIN_FILENO);
  std::size_t next = program.passed.size();
  for (const auto& [stream, number] :
       {std::pair{program.output, STDOUT_FILENO}, std::pair{program.error, STDERR_FILENO}}) {
    if (stream < 0) {
      actions.open_null(number);
    } else {
      actions.give((*copies)[next++].get(), number);
    }
  }
  for (int number = kFirstPassed; number < end; ++number) {
    actions.give((*copies)[static_cast<std::size_t>(number - kFirstPassed)].get(), number);
  }
  actions.close_from(end);
  actions.set_signals(program.ignored);
  return adopt(TRY(actions.run(program)));
}

Result<Child> Child::adopt(pid_t id) {
  // By number: <sys/pidfd.h> of glibc 2.36 is not for C++.
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, id, 0u)));
  if (process) return Child(id, std::move(process));
  const auto error = fail_errno("cannot watch process {}", id);
  ::kill(id, SIGKILL);  // not waited for yet: the number is still its own
  while (::waitpid(id, nullptr, 0) < 0 && errno == EINTR) {
  }
  return error;
}

Child& Child::operator=(Child&& other) noexcept {
  if (this != &other) {
    (void)end();
    id_ = other.id_;
    process_ = std::move(other.process_);
    ended_ = other.ended_;
  }
  return *this;
}

void Child::kill() const {
  if (process_) (void)::syscall(SYS_pidfd_send_signal, process_.get(), SIGKILL, nullptr, 0u);
}

ChildEnd Child::wait() {
  if (ended_ || !process_) return ended_.value_or(ChildEnd{});
  siginfo_t info{};
  int result = 0;
  do {
    result = ::waitid(P_PIDFD, static_cast<id_t>(process_.get()), &info, WEXITED);
  } while (result < 0 && errno == EINTR);
  // Where somebody else reaped it, nothing is known: that is no success.
  if (result < 0) {
    ended_ = ChildEnd{.code = -1};
  } else if (info.si_code == CLD_EXITED) {
    ended_ = ChildEnd{.code = info.si_status};
  } else {
    ended_ = ChildEnd{.signal = info.si_status};
  }
  return *ended_;
}

std::optional<ChildEnd> Child::wait_until(Clock::time_point deadline) {
  if (ended_) return ended_;
  if (!wait_readable(process_.get(), deadline)) return std::nullopt;
  return wait();
}

Child::Readiness Child::wait_ready(int pipe, Clock::time_point deadline) {
  if (!wait_readable(pipe, deadline)) return Readiness::late;
  char byte = 0;
  ssize_t n = 0;
  do {
    n = ::read(pipe, &byte, 1);
  } while (n < 0 && errno == EINTR);
  return n == 1 ? Readiness::ready : Readiness::ended;
}

ChildEnd Child::end() {
  if (!ended_) kill();
  return wait();
}

pid_t Child::leave() {
  process_.reset();
  return id_;
}

}  // namespace vmm
