#include "src/engine/runtime/supervisor.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "src/engine/runtime/detached.h"
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

}  // namespace

Result<UniqueFd> start_supervisor(const std::string& root, const std::string& id) {
  std::array<int, 2> ends;
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) < 0) {
    return fail_errno("cannot make a socket pair");
  }
  UniqueFd mine(ends[0]);
  const UniqueFd other(ends[1]);
  // Should it end before its time, the next command finds its lock free.
  const auto started = start_detached("vmm-supervisor", other.get(), [&](UniqueFd connection) {
    return supervise(root, id, std::move(connection)).has_value();
  });
  if (!started) {
    return fail("cannot start the container's supervisor: {}", started.error().message());
  }
  return mine;
}

}  // namespace vmm::engine
