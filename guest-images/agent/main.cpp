// The guest agent: runs the container of a machine for the host.
//
//   As the machine's first process it takes no words. Elsewhere, for tests:
//   vmm-agent --listen unix:PATH --root DIR --files DIR [--cgroup DIR] [--patience MILLISECONDS]
//
// 1. boot: root, mounts, modules (boot.h). 2. It listens, and says so. 3. One thread and one loop:
// connections (server.h), processes (process.h), the ends of children.
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <string_view>

#include "guest-images/agent/boot.h"
#include "guest-images/agent/server.h"
#include "src/base/text.h"
#include "src/base/unix_socket.h"

namespace vmm::agent {
namespace {

struct Options {
  std::string listen = "vsock";
  Places places;
  std::string cgroup;
  std::string patience;  // of all that freezes
};

Result<Options> parse(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    std::string* const value = word == "--listen"     ? &options.listen
                               : word == "--root"     ? &options.places.root
                               : word == "--files"    ? &options.places.files
                               : word == "--cgroup"   ? &options.cgroup
                               : word == "--patience" ? &options.patience
                                                      : nullptr;
    if (value == nullptr || i + 1 == count) {
      return fail(
          "invalid word '{}': expected --listen unix:PATH, --root DIR, --files DIR, --cgroup DIR "
          "or "
          "--patience MILLISECONDS",
          word);
    }
    *value = words[++i];
  }
  return options;
}

Result<UniqueFd> listen_on_vsock() {
  UniqueFd socket(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return fail_errno("cannot make a vsock socket");
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = protocol::agent::kAgentPort;
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0 ||
      ::listen(socket.get(), SOMAXCONN) < 0) {
    return fail_errno("cannot listen on vsock port {}", protocol::agent::kAgentPort);
  }
  return socket;
}

// The signals that the loop hears of: the end of a child, and of the agent where it is not PID 1.
Result<UniqueFd> open_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGCHLD);
  ::sigaddset(&signals, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  (void)::signal(SIGPIPE, SIG_IGN);
  UniqueFd descriptor(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!descriptor) return fail_errno("cannot make a signal descriptor");
  return descriptor;
}

Result<void> run(int count, char** words) {
  const bool is_first = ::getpid() == 1;
  Options options;
  if (is_first) {
    TRY(boot());
    options.cgroup = std::string(kCgroups) + "/container";
  } else {
    options = TRY(parse(count, words));
  }
  std::optional<Cgroup> cgroup;
  if (!options.cgroup.empty()) cgroup = TRY(Cgroup::create(options.cgroup));

  const auto signals = TRY(open_signals());
  const auto loop = TRY(EventLoop::create());
  std::optional<UnixListener> unix_listener;  // removes its path at the end
  UniqueFd listener;
  constexpr std::string_view kUnix = "unix:";
  if (options.listen.starts_with(kUnix)) {
    unix_listener.emplace(TRY(UnixListener::create(options.listen.substr(kUnix.size()))));
    listener = UniqueFd(::fcntl(unix_listener->fd(), F_DUPFD_CLOEXEC, 3));
  } else {
    listener = TRY(listen_on_vsock());
  }
  FreezePatience patience;
  if (!options.patience.empty()) {
    const auto given = TRY(parse_number(options.patience, 1, 1'000'000, "patience"));
    patience.to_stop = patience.without_progress = std::chrono::milliseconds(given);
  }
  Server server(*loop, std::move(listener), options.places, std::move(cgroup), patience);
  TRY(loop->watch(signals.get(), EPOLLIN, [&](std::uint32_t) {
    signalfd_siginfo signal{};
    while (::read(signals.get(), &signal, sizeof signal) == sizeof signal) {
      if (signal.ssi_signo == SIGTERM && !is_first) loop->stop();
    }
    server.reap();
  }));
  if (is_first) say_on_console("vmm-agent: ready");
  loop->run();
  loop->forget(signals.get());
  return {};
}

}  // namespace
}  // namespace vmm::agent

int main(int count, char** words) try {
  const auto done = vmm::agent::run(count, words);
  if (done) return 0;
  const std::string line = "vmm-agent: " + done.error().message();
  if (::getpid() == 1) vmm::agent::say_on_console(line);
  (void)std::fprintf(stderr, "%s\n", line.c_str());
  return 1;
} catch (const std::exception& error) {
  (void)std::fprintf(stderr, "vmm-agent: %s\n", error.what());
  return 1;
}
