#include "src/user_net/name_connections.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "src/user_net/accept_pause.h"
#include "src/user_net/bytes.h"
#include "src/user_net/offload.h"

namespace vmm::user_net {
namespace {

constexpr std::size_t kIpv4Checksum = kEthernet + 10;
constexpr int kBacklog = 64;

bool is_tcp(const Packet& packet) {
  return packet.protocol == IPPROTO_TCP && packet.transport.size() >= kTcpHeader;
}

// An even number of bytes, and the checksums that cover them (RFC 1624).
void replace(std::span<std::byte> frame, std::size_t at, std::span<const std::byte> bytes,
             std::span<const std::size_t> sums) {
  for (std::size_t i = 0; i < bytes.size(); i += 2) {
    const std::uint64_t before = static_cast<std::uint16_t>(~load_raw16(frame, at + i));
    const std::uint16_t now = load_raw16(bytes, i);
    store_raw16(frame, at + i, now);
    for (const auto sum_at : sums) {
      const std::uint64_t sum = static_cast<std::uint16_t>(~load_raw16(frame, sum_at));
      store_raw16(frame, sum_at, checksum_finish(sum + before + now));
    }
  }
}

enum class End : std::uint8_t { source, destination };

void rename(std::span<std::byte> frame, const Packet& packet, End end, const IpAddress& address,
            std::uint16_t port) {
  const std::size_t transport = frame.size() - packet.transport.size();
  const std::size_t second = end == End::destination ? 1 : 0;
  const auto all = std::as_bytes(std::span(address.bytes));
  const auto bytes = packet.ipv6 ? all : all.subspan(12);
  const std::size_t first = kEthernet + (packet.ipv6 ? 8 : 12);
  // IPv6 has no checksum of its header.
  const std::array<std::size_t, 2> sums = {transport + kTcpChecksum, kIpv4Checksum};
  replace(frame, first + second * bytes.size(), bytes, std::span(sums).first(packet.ipv6 ? 1 : 2));
  std::array<std::byte, 2> number;
  store16(number, 0, port);
  replace(frame, transport + 2 * second, number, std::span(sums).first(1));
}

}  // namespace

NameConnections::NameConnections(const Config& config) : ipv6_(config.ipv6) {
  doors_[0].dns = config.dns;
  doors_[0].gateway = config.gateway;
  doors_[1].dns = kDns6;
  doors_[1].gateway = kGateway6;
}

Result<void> NameConnections::set_up() {
  TRY(listen(doors_[0], ipv4(127, 0, 0, 1)));
  if (ipv6_) (void)listen(doors_[1], ipv6(0, 1));  // as said
  return {};
}

Result<void> NameConnections::listen(Door& door, const IpAddress& loopback) {
  auto address = loopback.socket_address(0);
  UniqueFd listener(::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  auto* raw = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = address.ss_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  if (!listener || ::bind(listener.get(), raw, size) < 0 ||
      ::listen(listener.get(), kBacklog) < 0 || ::getsockname(listener.get(), raw, &size) < 0) {
    return fail_errno("cannot listen on the host's loopback for queries of names");
  }
  door.port =
      ntohs(address.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in*>(raw)->sin_port
                                         : reinterpret_cast<const sockaddr_in6*>(raw)->sin6_port);
  door.listener = std::move(listener);
  return {};
}

bool NameConnections::is_query(const Packet& packet) const {
  return is_tcp(packet) && packet.destination == door_of(packet).dns &&
         packet.destination_port() == kDnsPort;
}

bool NameConnections::redirect(std::span<std::byte> frame, const Packet& packet,
                               std::span<const NameServer> servers) const {
  const auto& door = door_of(packet);
  if (!door.listener || servers.empty()) return false;
  rename(frame, packet, End::destination, door.gateway, door.port);
  return true;
}

std::span<const std::byte> NameConnections::answer(std::span<const std::byte> frame) {
  Packet packet;
  if (!Packet::parse(frame, packet) || !is_tcp(packet)) return frame;
  const auto& door = door_of(packet);
  if (!door.listener || packet.source != door.gateway || packet.source_port() != door.port) {
    return frame;
  }
  renamed_.assign(frame.begin(), frame.end());
  rename(renamed_, packet, End::source, door.dns, kDnsPort);
  return renamed_;
}

void NameConnections::add_polls(std::vector<pollfd>& polls, std::int64_t now_ms) {
  for (const auto& door : doors_) {
    const int listener = door.listener.get();
    polls.push_back({AcceptPause::own().covers(listener) ? -1 : listener, POLLIN, 0});
  }
  const auto add = [&](const UniqueFd& socket, const Direction& from, const Direction& to,
                       bool reads) {
    short events = 0;
    if (reads && from.waiting.empty() && !from.ended) events |= POLLIN;
    if (!to.waiting.empty() || !reads) events |= POLLOUT;
    // The end would be reported in any case, time and again.
    polls.push_back({events == 0 ? -1 : socket.get(), events, 0});
  };
  polled_.clear();
  for (std::size_t i = 0; i < connections_.size(); ++i) {
    auto& connection = connections_[i];
    if (connection.guest && now_ms - connection.since_ms > kPatienceMs) connection = {};
    if (!connection.guest) continue;
    polled_.push_back(i);
    if (connection.connected) {
      add(connection.guest, connection.question, connection.answer, true);
    } else {
      polls.push_back({-1, 0, 0});
    }
    add(connection.server, connection.answer, connection.question, connection.connected);
  }
}

void NameConnections::run(std::span<const pollfd> polls, std::span<const NameServer> servers,
                          std::int64_t now_ms) {
  const auto of_connections = polls.subspan(doors_.size());
  for (std::size_t i = 0; i < polled_.size(); ++i) {
    const bool guest_ready = of_connections[2 * i].revents != 0;
    const bool server_ready = of_connections[2 * i + 1].revents != 0;
    if (!guest_ready && !server_ready) continue;
    auto& connection = connections_[polled_[i]];
    connection.since_ms = now_ms;
    if (!move(connection, server_ready, servers)) connection = {};
  }
  for (std::size_t i = 0; i < doors_.size(); ++i) {
    if (polls[i].revents != 0) accept_at(doors_[i], servers, now_ms);
  }
}

void NameConnections::accept_at(const Door& door, std::span<const NameServer> servers,
                                std::int64_t now_ms) {
  UniqueFd guest(::accept4(door.listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!guest) return;
  const auto age = [](const Connection& connection) {
    return connection.guest ? connection.since_ms : -1;
  };
  auto& connection = *std::ranges::min_element(connections_, {}, age);
  connection = {};
  connection.guest = std::move(guest);
  connection.since_ms = now_ms;
  if (!ask(connection, servers)) connection = {};
}

bool NameConnections::ask(Connection& connection, std::span<const NameServer> servers) {
  for (; connection.tries < servers.size(); ++connection.tries) {
    const auto address = servers[connection.tries].socket_address(kDnsPort);
    const socklen_t size =
        address.ss_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    connection.server =
        UniqueFd(::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!connection.server) continue;
    const auto* target = reinterpret_cast<const sockaddr*>(&address);
    if (::connect(connection.server.get(), target, size) == 0 || errno == EINPROGRESS) return true;
  }
  return false;
}

bool NameConnections::move(Connection& connection, bool server_ready,
                           std::span<const NameServer> servers) {
  const int guest = connection.guest.get();
  if (!connection.connected) {
    if (!server_ready) return true;
    int error = 0;
    socklen_t size = sizeof error;
    if (::getsockopt(connection.server.get(), SOL_SOCKET, SO_ERROR, &error, &size) < 0 ||
        error != 0) {
      ++connection.tries;
      return ask(connection, servers);
    }
    connection.connected = true;
  }
  const int server = connection.server.get();
  return pass(guest, server, connection.question) && pass(server, guest, connection.answer) &&
         !(connection.question.end_told && connection.answer.end_told);
}

// One step, so that a connection which never pauses does not keep the others waiting.
bool NameConnections::pass(int from, int to, Direction& direction) {
  auto& waiting = direction.waiting;
  if (waiting.empty() && !direction.ended) {
    waiting.resize(kMostWaiting);
    const ssize_t size = ::recv(from, waiting.data(), waiting.size(), MSG_DONTWAIT);
    waiting.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    direction.ended = size == 0;
  }
  if (!waiting.empty()) {
    const ssize_t size = ::send(to, waiting.data(), waiting.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    waiting.erase(waiting.begin(), waiting.begin() + size);
  }
  if (direction.ended && waiting.empty() && !direction.end_told) {
    direction.end_told = true;
    return ::shutdown(to, SHUT_WR) == 0;
  }
  return true;
}

}  // namespace vmm::user_net
