#include "src/engine/runtime/ports.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "src/base/unique_fd.h"

namespace vmm::engine {
namespace {

struct Address {
  sockaddr_storage bytes{};
  socklen_t size = 0;
};

Address address_of(const PublishedPort& port) {
  Address address;
  auto& ipv6 = reinterpret_cast<sockaddr_in6&>(address.bytes);
  auto& ipv4 = reinterpret_cast<sockaddr_in&>(address.bytes);
  if (::inet_pton(AF_INET6, port.host_address.c_str(), &ipv6.sin6_addr) == 1) {
    ipv6.sin6_family = AF_INET6;
    ipv6.sin6_port = htons(port.host_port);
    address.size = sizeof ipv6;
    return address;
  }
  // What is no address, and "", is any.
  if (::inet_pton(AF_INET, port.host_address.c_str(), &ipv4.sin_addr) != 1) {
    ipv4.sin_addr.s_addr = htonl(INADDR_ANY);
  }
  ipv4.sin_family = AF_INET;
  ipv4.sin_port = htons(port.host_port);
  address.size = sizeof ipv4;
  return address;
}

// A socket that has the port as long as it lives; port 0: a free one.
Result<UniqueFd> take(const PublishedPort& port) {
  const auto address = address_of(port);
  const int type = port.protocol == "udp" ? SOCK_DGRAM : SOCK_STREAM;
  UniqueFd socket(::socket(address.bytes.ss_family, type | SOCK_CLOEXEC, 0));
  const int on = 1;
  if (!socket) return fail_errno("cannot make a socket");
  // As who listens there later: what ended a moment ago is no obstacle.
  if (type == SOCK_STREAM) {
    (void)::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  }
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address.bytes), address.size) < 0) {
    const auto host = port.host_address.empty() ? "0.0.0.0" : port.host_address;
    if (errno == EADDRINUSE) {
      return fail("Bind for {}:{} failed: port is already allocated", host, port.host_port);
    }
    return fail_errno("cannot publish port {} of '{}'", port.host_port, host);
  }
  return socket;
}

}  // namespace

Result<void> choose_host_ports(std::vector<PublishedPort>& ports) {
  std::vector<UniqueFd> taken;  // until all are chosen, so that they differ
  for (auto& port : ports) {
    if (port.host_port != 0) continue;
    taken.push_back(TRY(take(port)));
    sockaddr_storage bound{};
    socklen_t size = sizeof bound;
    if (::getsockname(taken.back().get(), reinterpret_cast<sockaddr*>(&bound), &size) < 0) {
      return fail_errno("cannot choose a port");
    }
    // The port stands at the same place in addresses of both families.
    port.host_port = ntohs(reinterpret_cast<const sockaddr_in&>(bound).sin_port);
  }
  return {};
}

Result<void> check_host_ports(const std::vector<PublishedPort>& ports) {
  for (const auto& port : ports) {
    if (port.host_port != 0) TRY(take(port));
  }
  return {};
}

}  // namespace vmm::engine
