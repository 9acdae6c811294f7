// vmm-net: the network of a machine that has no privilege, in a process of its own: a bug in TCP/IP
// ends the network and not the machine. Started by vmm (devices/backend/net/user_network.h):
//
//   vmm-net SOCKET [--network=10.0.2.0/24 --hostfwd=tcp::8080-:80 ...]
//
// SOCKET is the number of a descriptor, one end of a pair of SOCK_SEQPACKET sockets (wire.h).
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <exception>
#include <string>
#include <vector>

#include "src/base/text.h"
#include "src/user_net/gateway.h"
#include "src/user_net/sandbox.h"

namespace vmm::user_net {
namespace {

// Each connection of the guest is a descriptor.
void raise_descriptor_limit() {
  constexpr rlim_t kWanted = 16384;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= kWanted) return;
  limit.rlim_cur = std::min(kWanted, limit.rlim_max);
  (void)::setrlimit(RLIMIT_NOFILE, &limit);  // fewer connections, then
}

Result<void> serve(int socket, const std::vector<std::string>& arguments) {
  // The end of the machine's socket tells of its end; this does where a stray child of it holds the
  // socket. (PR_SET_PDEATHSIG would end the network with the thread that started it.)
  const UniqueFd machine(static_cast<int>(::syscall(SYS_pidfd_open, ::getppid(), 0u)));
  Link link{UniqueFd(socket)};
  auto config = from_arguments(arguments);
  if (!config) {
    link.greet(config.error().message());
    return std::unexpected(config.error());
  }
  Gateway gateway(std::move(*config), link);
  if (auto result = gateway.set_up(); !result) {
    link.greet(result.error().message());
    return result;
  }
  if (auto result = confine(); !result) {
    link.greet(result.error().message());
    return result;
  }
  link.greet("");
  gateway.run(machine.get());
  ::_exit(0);  // nothing of it outlives the process, so nothing is taken apart
}

}  // namespace
}  // namespace vmm::user_net

int main(int argc, char** argv) {
  using namespace vmm;
  try {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    const auto socket = parse_number(arguments.empty() ? "" : arguments[0], 0, 1 << 20,
                                     "the descriptor of the network socket");
    if (!socket) {
      fmt::print(stderr, "vmm-net: {}\n", socket.error().message());
      return 2;
    }
    ::signal(SIGPIPE, SIG_IGN);
    user_net::raise_descriptor_limit();
    // The error went to the machine, which tells its user.
    return user_net::serve(static_cast<int>(*socket), {arguments.begin() + 1, arguments.end()}) ? 0
                                                                                                : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "vmm-net: {}\n", error.what());
    return 1;
  }
}
