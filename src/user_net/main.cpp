// vmm-net: the network of a machine that has no privilege, in a process of its own: a bug in TCP/IP
// ends the network and not the machine. Started by vmm (devices/backend/net/user_network.h):
//
//   vmm-net SOCKET [--network=10.0.2.0/24 --hostfwd=tcp::8080-:80 ...]
//
// SOCKET is the number of a descriptor, one end of a pair of SOCK_SEQPACKET sockets (wire.h).
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <exception>
#include <string>
#include <vector>

#include "src/base/text.h"
#include "src/user_net/gateway.h"
#include "src/user_net/sandbox.h"

namespace vmm::user_net {
namespace {

// What a guest can make of this process. Each connection is a descriptor and up to 256 KiB in
// libslirp, so all of them stay below the limit of memory. That one is for what libslirp does not
// bound by itself (segments that came out of order, packets that wait for an address): beyond it
// the process ends, and the machine starts it again.
constexpr rlim_t kConnections = 2048;
constexpr rlim_t kOwnDescriptors = 64 + NameRelay::kQueries + NameConnections::kDescriptors;
[[maybe_unused]] constexpr rlim_t kMemory = 768u << 20;
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define VMM_NET_SANITIZED  // by something that reserves terabytes of addresses
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define VMM_NET_SANITIZED
#endif

Result<void> limit(int resource, rlim_t most, std::string_view what) {
  rlimit limits{};
  if (::getrlimit(resource, &limits) < 0) return fail_errno("cannot read the limit of {}", what);
  limits.rlim_max = std::min(limits.rlim_max, most);
  limits.rlim_cur = limits.rlim_max;
  if (::setrlimit(resource, &limits) < 0) return fail_errno("cannot limit {}", what);
  return {};
}

Result<void> limit_resources(const Config& config) {
  rlim_t published = 0;
  for (const auto& forward : config.forwards) published += forward.count;
  TRY(limit(RLIMIT_NOFILE, kConnections + published + kOwnDescriptors, "descriptors"));
  TRY(limit(RLIMIT_CORE, 0, "core files"));  // a guest would leave one a death
#ifndef VMM_NET_SANITIZED
  TRY(limit(RLIMIT_AS, kMemory, "memory"));
#endif
  return {};
}

constexpr std::string_view kNoLandlock =
    "this host's kernel has no Landlock, so one of two walls between the network and files is "
    "missing";

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
  if (auto result = limit_resources(*config); !result) {
    link.greet(result.error().message());
    return result;
  }
  Gateway gateway(std::move(*config), link);
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

}  // namespace
}  // namespace vmm::user_net

int main(int argc, char** argv) {
  using namespace vmm;
  try {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    const auto socket = parse_number(arguments.empty() ? "" : arguments[0], 0, 1 << 20,
                                     "network socket descriptor");
    if (!socket) {
      fmt::print(stderr, "vmm-net: {}\n", socket.error().message());
      return 2;
    }
    ::signal(SIGPIPE, SIG_IGN);
    // Whatever the machine, or who started it, left open.
    const auto number = static_cast<unsigned>(*socket);
    if (number > 3) (void)::close_range(3, number - 1, 0);
    (void)::close_range(std::max(number, 2u) + 1, ~0u, 0);
    // The error went to the machine, which tells its user.
    return user_net::serve(static_cast<int>(*socket), {arguments.begin() + 1, arguments.end()}) ? 0
                                                                                                : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "vmm-net: {}\n", error.what());
    return 1;
  }
}
