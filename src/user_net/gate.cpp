#include "src/user_net/gate.h"

#include <netinet/in.h>

#include <algorithm>

#include "src/user_net/bytes.h"
#include "src/user_net/offload.h"

namespace vmm::user_net {
namespace {

constexpr IpAddress kAllNodes = ipv6(0xff02, 1);
constexpr IpAddress kLimitedBroadcast = ipv4(255, 255, 255, 255);

// Of no use outside of one host (RFC 1122, 3.2.1.3; RFC 4291, 2.5).
constexpr IpNetwork kThisHost{ipv4(0, 0, 0, 0), 96 + 8};
constexpr IpNetwork kLoopback{ipv4(127, 0, 0, 0), 96 + 8};
constexpr IpNetwork kIpv4Compatible{IpAddress{}, 96};

constexpr std::uint8_t kFin = 0x01, kReset = 0x04, kAck = 0x10;
constexpr std::uint16_t kDhcpServer = 67, kDhcpServer6 = 547;

}  // namespace

Gate::Gate(const Config& config)
    : gateway_(config.gateway),
      dns_(config.dns),
      ipv6_(config.ipv6),
      host_loopback_(config.host_loopback),
      denied_(config.denied) {
  for (const auto& forward : config.forwards) {
    if (forward.protocol == HostForward::Protocol::udp) publish_udp();
  }
}

void Gate::publish_udp() {
  publishes_udp_ = true;
  answerable_.resize(kAnswerable);
}

// Addresses that libslirp takes for the host itself (sotranslate_out).
bool Gate::reaches_host(const IpAddress& peer) const {
  return peer == gateway_ || peer == kLimitedBroadcast || peer == kAllNodes ||
         kNetwork6.contains(peer);
}

bool Gate::asks_names(const Packet& packet) {
  return packet.transport.size() >= kUdpHeader && packet.destination_port() == kDnsPort;
}

bool Gate::permits(const Packet& packet, const IpAddress& peer) const {
  const bool icmp = packet.protocol == IPPROTO_ICMP || packet.protocol == IPPROTO_ICMPV6;
  // Queries are relayed, by both protocols. Other ports stay closed: to libslirp the address of
  // IPv6 is the host's loopback.
  if (peer == dns_ || peer == kDns6) return icmp || asks_names(packet);
  if (reaches_host(peer)) {
    if (host_loopback_ || icmp) return true;
    // libslirp answers DHCP itself.
    return packet.is_udp() &&
           packet.destination_port() == (packet.ipv6 ? kDhcpServer6 : kDhcpServer);
  }
  return std::ranges::none_of(denied_,
                              [&](const IpNetwork& network) { return network.contains(peer); });
}

Gate::Verdict Gate::judge(std::span<const std::byte> frame) const {
  if (frame.size() < kEthernet) return Verdict::drop;
  if (load16(frame, 12) == kTypeArp) return Verdict::pass;
  Packet packet;
  if (!Packet::parse(frame, packet)) return Verdict::drop;
  const auto& peer = packet.destination;
  if (packet.ipv6) {
    // No IPv4 address comes in disguise.
    if (!ipv6_ || peer.is_ipv4() || kIpv4Compatible.contains(peer)) return Verdict::drop;
  } else if (kThisHost.contains(peer) || kLoopback.contains(peer)) {
    return Verdict::drop;
  }
  const int icmp = packet.ipv6 ? int{IPPROTO_ICMPV6} : int{IPPROTO_ICMP};
  if (packet.protocol != IPPROTO_TCP && packet.protocol != IPPROTO_UDP && packet.protocol != icmp) {
    return Verdict::drop;
  }
  if (permits(packet, peer)) return Verdict::pass;
  if (packet.protocol == IPPROTO_TCP) {
    if (packet.transport.size() < kTcpHeader) return Verdict::drop;
    // Only a SYN alone opens a connection (tcp_input).
    const bool opens = (load8(packet.transport, kTcpFlags) & (kAck | kReset)) == 0;
    return opens ? Verdict::refuse : Verdict::pass;
  }
  if (!packet.is_udp() || !publishes_udp_) return Verdict::drop;
  const Answerable entry{peer, packet.destination_port(), packet.source_port()};
  return answerable_[slot(entry)] == entry ? Verdict::pass : Verdict::drop;
}

void Gate::refuse_connection(std::span<std::byte> frame) {
  const bool ipv4 = load16(frame, 12) == kTypeIpv4;
  const std::size_t header = ipv4 ? (load8(frame, kEthernet) & 15u) * 4 : kIpv6Header;
  const auto tcp = frame.subspan(kEthernet + header);
  if ((load8(tcp, kTcpFlags) & kFin) != 0) return;
  // A SYN with a FIN is refused by libslirp. RFC 1624 for the checksum.
  const std::uint64_t before = static_cast<std::uint16_t>(~load_raw16(tcp, kTcpFlags - 1));
  tcp[kTcpFlags] |= std::byte{kFin};
  const std::uint64_t sum = static_cast<std::uint16_t>(~load_raw16(tcp, kTcpChecksum));
  store_raw16(tcp, kTcpChecksum, checksum_finish(sum + before + load_raw16(tcp, kTcpFlags - 1)));
}

void Gate::note_answerable(std::span<const std::byte> frame) {
  Packet packet;
  if (!publishes_udp_ || !Packet::parse(frame, packet) || !packet.is_udp()) return;
  if (permits(packet, packet.source)) return;
  const Answerable entry{packet.source, packet.source_port(), packet.destination_port()};
  answerable_[slot(entry)] = entry;
}

std::size_t Gate::slot(const Answerable& entry) {
  std::uint32_t hash = entry.peer_port * 0x9e3779b1u ^ entry.guest_port * 0x85ebca6bu;
  for (const auto byte : entry.peer.bytes) hash = (hash ^ byte) * 0x01000193u;
  return (hash >> 10) % kAnswerable;
}

}  // namespace vmm::user_net
