// Packet: where the parts of an IP packet are that is whole: of either family, no fragment, without
// source routes or IPv6 extension headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "src/user_net/address.h"

namespace vmm::user_net {

inline constexpr std::size_t kUdpHeader = 8;
inline constexpr std::size_t kTcpHeader = 20;
// Offsets in the TCP header.
inline constexpr std::size_t kTcpFlags = 13;
inline constexpr std::size_t kTcpChecksum = 16;
// Of the IPv4 header's field of flags and the fragment's offset.
inline constexpr unsigned kMoreFragments = 0x2000;
inline constexpr unsigned kFragmentOffset = 0x1fff;

struct Packet {
  bool ipv6 = false;
  std::uint8_t protocol = 0;
  IpAddress source, destination;
  std::span<const std::byte> transport;  // header and payload

  // False for any other bytes, and for what is not IP.
  static bool parse(std::span<const std::byte> frame, Packet& packet);

  bool is_udp() const;  // with a whole header
  std::uint16_t source_port() const;
  std::uint16_t destination_port() const;
};

}  // namespace vmm::user_net
