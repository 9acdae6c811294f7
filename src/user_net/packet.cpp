#include "src/user_net/packet.h"

#include <netinet/in.h>

#include "src/user_net/bytes.h"

namespace vmm::user_net {
namespace {

// RFC 791, 3.1. True as well for options whose lengths are wrong.
bool has_source_route(std::span<const std::byte> options) {
  constexpr std::uint8_t kEnd = 0, kNothing = 1, kLoose = 131, kStrict = 137;
  for (std::size_t at = 0; at < options.size();) {
    const auto kind = load8(options, at);
    if (kind == kEnd) return false;
    if (kind == kNothing) {
      ++at;
      continue;
    }
    if (kind == kLoose || kind == kStrict || at + 1 >= options.size()) return true;
    const std::size_t length = load8(options, at + 1);
    if (length < 2) return true;
    at += length;
  }
  return false;
}

}  // namespace

bool Packet::parse(std::span<const std::byte> frame, Packet& packet) {
  if (frame.size() < kEthernet) return false;
  const auto ip = frame.subspan(kEthernet);
  if (load16(frame, 12) == kTypeIpv4) {
    if (ip.size() < kIpv4Header || load8(ip, 0) >> 4 != 4) return false;
    const std::size_t header = (load8(ip, 0) & 15u) * 4;
    const std::size_t total = load16(ip, 2);
    const bool fragment = (load16(ip, 6) & 0xbfff) != 0;  // all but "do not fragment"
    if (header < kIpv4Header || total < header || total > ip.size() || fragment) return false;
    if (has_source_route(ip.subspan(kIpv4Header, header - kIpv4Header))) return false;
    packet.protocol = load8(ip, 9);
    packet.source = IpAddress::load(ip.subspan(12, 4));
    packet.destination = IpAddress::load(ip.subspan(16, 4));
    packet.transport = ip.subspan(header, total - header);
    return true;
  }
  if (load16(frame, 12) != kTypeIpv6) return false;
  if (ip.size() < kIpv6Header || load8(ip, 0) >> 4 != 6) return false;
  const std::size_t length = load16(ip, 4);
  if (kIpv6Header + length > ip.size()) return false;
  packet.ipv6 = true;
  packet.protocol = load8(ip, 6);  // an extension header is none that anybody asks for
  packet.source = IpAddress::load(ip.subspan(8, 16));
  packet.destination = IpAddress::load(ip.subspan(24, 16));
  packet.transport = ip.subspan(kIpv6Header, length);
  return true;
}

bool Packet::is_udp() const { return protocol == IPPROTO_UDP && transport.size() >= kUdpHeader; }

std::uint16_t Packet::source_port() const { return load16(transport, 0); }
std::uint16_t Packet::destination_port() const { return load16(transport, 2); }

}  // namespace vmm::user_net
