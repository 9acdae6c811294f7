// vmm-net: the network of a machine that has no privilege, in a process of its own: a bug in TCP/IP
// ends the network and not the machine. Started by vmm (devices/backend/net/user_network.h):
//
//   vmm-net SOCKET PORTS [--network=10.0.2.0/24 --hostfwd=tcp::8080-:80 ...]
//
// SOCKET and PORTS are descriptors, SOCKET + 1 the latter: ends of pairs of SOCK_SEQPACKET sockets
// (wire.h).
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <exception>
#include <string>
#include <vector>

#include "src/base/text.h"
#include "src/user_net/gateway.h"
#include "src/user_net/resource_limits.h"
#include "src/user_net/sandbox.h"

namespace vmm::user_net {
namespace {

constexpr std::string_view kNoLandlock =
    "this host's kernel has no Landlock, so one of two walls between the network and files is "
    "missing";

Result<void> serve(int socket, int ports, const std::vector<std::string>& arguments) {
  // The end of the machine's socket tells of its end; this does where a stray child of it holds the
  // socket. (PR_SET_PDEATHSIG would end the network with the thread that started it.)
  const UniqueFd machine(static_cast<int>(::syscall(SYS_pidfd_open, ::getppid(), 0u)));
  Link link{UniqueFd(socket)};
  UniqueFd requests(ports);
  auto config = from_arguments(arguments);
  if (!config) {
    link.greet(config.error().message());
    return std::unexpected(config.error());
  }
  std::size_t published = 0;
  for (const auto& forward : config->forwards) published += forward.count;
  if (auto result = limit_resources(published); !result) {
    link.greet(result.error().message());
    return result;
  }
  Gateway gateway(std::move(*config), link, std::move(requests));
  if (auto result = gateway.set_up(); !result) {
    link.greet(result.error().message());
    return result;
  }
  const auto landlock = confine();
  if (!landlock) {
    link.greet(landlock.error().message());
    return std::unexpected(landlock.error());
  }
  link.greet("", *landlock == Landlock::none ? kNoLandlock : "");
  gateway.run(machine.get());
  ::_exit(0);  // nothing of it outlives the process, so nothing is taken apart
}

Result<int> descriptor(const std::vector<std::string>& arguments, std::size_t index) {
  return static_cast<int>(TRY(parse_number(arguments.size() > index ? arguments[index] : "", 3,
                                           1 << 20, "network socket descriptor")));
}

}  // namespace
}  // namespace vmm::user_net

int main(int argc, char** argv) {
  using namespace vmm;
  try {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    const auto socket = user_net::descriptor(arguments, 0);
    const auto ports = user_net::descriptor(arguments, 1);
    if (!socket || !ports || *ports != *socket + 1) {
      fmt::print(stderr, "vmm-net: {}\n",
                 !socket  ? socket.error().message()
                 : !ports ? ports.error().message()
                          : "the descriptor of ports comes behind that of the network");
      return 2;
    }
    ::signal(SIGPIPE, SIG_IGN);
    // Whatever the machine, or who started it, left open.
    const auto number = static_cast<unsigned>(*socket);
    if (number > 3) (void)::close_range(3, number - 1, 0);
    (void)::close_range(number + 2, ~0u, 0);
    // The error went to the machine, which tells its user.
    return user_net::serve(*socket, *ports, {arguments.begin() + 2, arguments.end()}) ? 0 : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "vmm-net: {}\n", error.what());
    return 1;
  }
}
