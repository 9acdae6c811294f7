#include "src/engine/runtime/supervisor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <exception>

#include "src/engine/runtime/supervised.h"

namespace vmm::engine {
namespace {

// Whoever ends the host's processes ends the containers in their own way first.
Result<UniqueFd> open_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigprocmask(SIG_SETMASK, &signals, nullptr);
  for (const int ignored : {SIGINT, SIGHUP, SIGPIPE, SIGQUIT}) (void)::signal(ignored, SIG_IGN);
  (void)::signal(SIGCHLD, SIG_DFL);
  UniqueFd descriptor(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!descriptor) return fail_errno("cannot make a signal descriptor");
  return descriptor;
}

Result<void> supervise(const std::string& root, const std::string& id, UniqueFd first) {
  const auto loop = TRY(EventLoop::create());
  const auto signals = TRY(open_signals());
  Supervised container(*loop, root, id);
  TRY(loop->watch(signals.get(), EPOLLIN, [&](std::uint32_t) {
    signalfd_siginfo signal{};
    while (::read(signals.get(), &signal, sizeof signal) == sizeof signal) container.stop();
  }));
  container.connect(std::move(first));
  container.begin();
  loop->run();
  loop->forget(signals.get());
  return {};
}

// Nothing of who started it: no descriptor but the connection, no terminal, no directory.
UniqueFd leave_parent(int connection) {
  (void)::prctl(PR_SET_NAME, "vmm-supervisor");
  constexpr int kConnection = 3;
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int target = 0; null >= 0 && target < kConnection; ++target) (void)::dup2(null, target);
  if (connection != kConnection) (void)::dup3(connection, kConnection, O_CLOEXEC);
  (void)::close_range(kConnection + 1, ~0u, 0);
  return UniqueFd(kConnection);
}

}  // namespace

Result<UniqueFd> start_supervisor(const std::string& root, const std::string& id) {
  std::array<int, 2> ends;
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) < 0) {
    return fail_errno("cannot make a socket pair");
  }
  UniqueFd mine(ends[0]);
  const UniqueFd other(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("cannot start the container's supervisor");
  if (child == 0) {
    (void)::setsid();
    if (const pid_t again = ::fork(); again != 0) ::_exit(again < 0 ? 1 : 0);
    mine.reset();
    try {
      ::_exit(supervise(root, id, leave_parent(other.get())) ? 0 : 1);
    } catch (const std::exception&) {
      ::_exit(1);  // the next command finds its lock free
    }
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) return fail("cannot start the container's supervisor");
  return mine;
}

}  // namespace vmm::engine
