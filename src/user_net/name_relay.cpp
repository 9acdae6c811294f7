#include "src/user_net/name_relay.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "src/user_net/bytes.h"
#include "src/user_net/offload.h"

namespace vmm::user_net {
namespace {

constexpr std::size_t kNameHeader = 12;
constexpr std::size_t kId = 2;

// The checksum of a UDP packet whose checksum field is zero, with its pseudo header.
std::uint16_t udp_checksum(std::span<const std::byte> addresses, std::span<const std::byte> udp) {
  std::uint64_t sum = checksum_add(0, addresses);
  sum += htons(static_cast<std::uint16_t>(udp.size())) + std::uint64_t{htons(IPPROTO_UDP)};
  return checksum_finish(checksum_add(sum, udp));
}

}  // namespace

NameRelay::NameRelay(const Config& config, Give give)
    : dns_(config.dns), ipv6_(config.ipv6), give_(std::move(give)) {}

void NameRelay::add_server(const NameServer& server) {
  if (servers_.size() < kServers) servers_.push_back(server);
}

bool NameRelay::is_own(const IpAddress& address) const {
  return address == dns_ || (ipv6_ && address == kDns6);
}

bool NameRelay::take(std::span<const std::byte> frame, const Packet& packet, std::int64_t now_ms) {
  if (!packet.is_udp() || !is_own(packet.destination) || packet.destination_port() != kDnsPort) {
    return false;
  }
  const std::size_t length = load16(packet.transport, 4);
  if (length < kUdpHeader + kNameHeader || length > packet.transport.size() ||
      length > kMostOfQuery) {
    return true;
  }
  const auto start = static_cast<std::size_t>(packet.transport.data() - frame.data());
  const auto whole = frame.first(start + length);
  auto& query = place_for(whole, start + kUdpHeader, now_ms);
  ask(query);
  return true;
}

// Who asks the same again, as the first server did not answer, is sent to the next.
NameRelay::Query& NameRelay::place_for(std::span<const std::byte> frame, std::size_t payload,
                                       std::int64_t now_ms) {
  Query* place = &queries_[0];
  bool again = false;
  for (auto& query : queries_) {
    const std::size_t same = payload + kId;  // headers with addresses and ports, and the number
    again = query.socket && query.payload == payload && query.frame.size() >= same &&
            std::ranges::equal(std::span(query.frame).subspan(kEthernet + kIpv4Header - 8, 8),
                               frame.subspan(kEthernet + kIpv4Header - 8, 8)) &&
            std::ranges::equal(std::span(query.frame).subspan(payload - kUdpHeader, 4),
                               frame.subspan(payload - kUdpHeader, 4)) &&
            std::ranges::equal(std::span(query.frame).subspan(payload, kId),
                               frame.subspan(payload, kId));
    if (again) {
      place = &query;
      break;
    }
    const auto age = [](const Query& q) { return q.socket ? q.since_ms : -1; };
    if (age(query) < age(*place)) place = &query;
  }
  place->server = again ? place->server + 1 : 0;
  place->tries = 0;
  place->since_ms = now_ms;
  place->frame.assign(frame.begin(), frame.end());
  place->payload = payload;
  return *place;
}

void NameRelay::ask(Query& query) {
  const auto payload = std::span(query.frame).subspan(query.payload);
  for (; query.tries < servers_.size(); ++query.tries, ++query.server) {
    const auto& server = servers_[query.server % servers_.size()];
    const auto address = server.socket_address(kDnsPort);
    query.socket =
        UniqueFd(::socket(address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const auto* target = reinterpret_cast<const sockaddr*>(&address);
    const socklen_t size =
        address.ss_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (query.socket && ::connect(query.socket.get(), target, size) == 0 &&
        ::send(query.socket.get(), payload.data(), payload.size(), MSG_NOSIGNAL) >= 0) {
      return;
    }
  }
  query.socket.reset();
  refuse(query);
}

void NameRelay::add_polls(std::vector<pollfd>& polls, std::int64_t now_ms) {
  polled_.clear();
  for (std::size_t i = 0; i < queries_.size(); ++i) {
    auto& query = queries_[i];
    if (query.socket && now_ms - query.since_ms > kPatienceMs) query.socket.reset();
    if (!query.socket) continue;
    polls.push_back({query.socket.get(), POLLIN, 0});
    polled_.push_back(i);
  }
}

void NameRelay::run(std::span<const pollfd> polls) {
  for (std::size_t i = 0; i < polls.size() && i < polled_.size(); ++i) {
    auto& query = queries_[polled_[i]];
    // A query of this round may have taken the place of the one that was polled.
    if (polls[i].revents != 0 && query.socket.get() == polls[i].fd) read_answer(query);
  }
}

void NameRelay::read_answer(Query& query) {
  buffer_.resize(kMostBytes);
  const ssize_t size = ::recv(query.socket.get(), buffer_.data(), buffer_.size(), MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (size < 0) {  // nobody listens there
    ++query.tries;
    ++query.server;
    return ask(query);
  }
  const auto payload = std::span(buffer_).first(static_cast<std::size_t>(size));
  const auto asked = std::span(query.frame).subspan(query.payload, kId);
  if (payload.size() < kNameHeader || !std::ranges::equal(payload.first(kId), asked)) return;
  query.socket.reset();
  answer(query, payload);
}

// RFC 1035, 4.1.1: the query, as a response that says "server failure".
void NameRelay::refuse(const Query& query) {
  const auto question = std::span(query.frame).subspan(query.payload);
  std::vector<std::byte> failure(question.begin(), question.end());
  failure[2] |= std::byte{0x80};
  failure[3] = (failure[3] & std::byte{0x70}) | std::byte{2};
  answer(query, failure);
}

void NameRelay::answer(const Query& query, std::span<const std::byte> payload) {
  const std::span<const std::byte> frame(query.frame);
  const bool ipv6 = load16(frame, 12) == kTypeIpv6;
  const std::size_t address = ipv6 ? 16 : 4;
  const std::size_t header = ipv6 ? kIpv6Header : kIpv4Header;
  const std::size_t source = kEthernet + (ipv6 ? 8 : 12);
  const std::size_t udp = kEthernet + header;
  reply_.assign(udp + kUdpHeader, std::byte{0});
  const auto put = [&](std::size_t at, std::span<const std::byte> bytes) {
    std::ranges::copy(bytes, reply_.begin() + static_cast<std::ptrdiff_t>(at));
  };
  put(0, frame.subspan(6, 6));
  put(6, frame.subspan(0, 6));
  put(12, frame.subspan(12, 2));
  put(source, frame.subspan(source + address, address));
  put(source + address, frame.subspan(source, address));
  put(udp, frame.subspan(query.payload - kUdpHeader + 2, 2));
  put(udp + 2, frame.subspan(query.payload - kUdpHeader, 2));
  const auto length = static_cast<std::uint16_t>(kUdpHeader + payload.size());
  store16(reply_, udp + 4, length);
  reply_.insert(reply_.end(), payload.begin(), payload.end());
  const std::span reply(reply_);
  store_raw16(reply, udp + 6, udp_checksum(reply.subspan(source, 2 * address), reply.subspan(udp)));
  constexpr std::byte kTimeToLive{64}, kUdp{IPPROTO_UDP};
  if (ipv6) {
    reply[kEthernet] = std::byte{0x60};
    store16(reply, kEthernet + 4, length);
    reply[kEthernet + 6] = kUdp;
    reply[kEthernet + 7] = kTimeToLive;
  } else {
    reply[kEthernet] = std::byte{0x45};
    store16(reply, kEthernet + 2, static_cast<std::uint16_t>(header + length));
    reply[kEthernet + 8] = kTimeToLive;
    reply[kEthernet + 9] = kUdp;
    store_raw16(reply, kEthernet + 10,
                checksum_finish(checksum_add(0, reply.subspan(kEthernet, header))));
  }
  give_(reply);
}

}  // namespace vmm::user_net
