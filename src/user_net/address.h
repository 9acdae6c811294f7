// IP addresses and networks of both families. An IPv4 address is kept as its IPv4-mapped IPv6
// address (RFC 4291, 2.5.5.2), so that one comparison serves both.
#pragma once

#include <netinet/in.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "src/base/result.h"

namespace vmm::user_net {

struct Ipv4Address {
  std::uint32_t value = 0;  // host byte order; 0: not given

  static Result<Ipv4Address> parse(std::string_view text);
  std::string text() const;
  friend bool operator==(Ipv4Address, Ipv4Address) = default;
};

constexpr Ipv4Address ipv4(unsigned a, unsigned b, unsigned c, unsigned d) {
  return {a << 24 | b << 16 | c << 8 | d};
}

struct IpAddress {
  std::array<std::uint8_t, 16> bytes{};  // all zero: "::"

  constexpr IpAddress() = default;
  constexpr IpAddress(Ipv4Address address) {
    bytes[10] = bytes[11] = 0xff;
    for (unsigned i = 0; i < 4; ++i) {
      bytes[12 + i] = static_cast<std::uint8_t>(address.value >> (24 - 8 * i));
    }
  }
  // Four or sixteen bytes in network order.
  static IpAddress load(std::span<const std::byte> bytes);

  // "10.0.2.15" or "fd00::1".
  static Result<IpAddress> parse(std::string_view text);
  std::string text() const;
  bool is_ipv4() const;
  Ipv4Address to_ipv4() const;  // when is_ipv4()
  sockaddr_storage socket_address(std::uint16_t port) const;
  friend bool operator==(const IpAddress&, const IpAddress&) = default;
};

// "fec0::3" is ipv6(0xfec0, 3).
constexpr IpAddress ipv6(std::uint16_t first, std::uint8_t last) {
  IpAddress address;
  address.bytes[0] = static_cast<std::uint8_t>(first >> 8);
  address.bytes[1] = static_cast<std::uint8_t>(first & 255);
  address.bytes[15] = last;
  return address;
}

struct IpNetwork {
  IpAddress address;
  unsigned prefix = 128;  // of 128 bits, for IPv4 as well

  // "10.0.0.0/8", "fd00::/8"; without a prefix one address.
  static Result<IpNetwork> parse(std::string_view text);
  std::string text() const;
  bool contains(const IpAddress& other) const;
  friend bool operator==(const IpNetwork&, const IpNetwork&) = default;
};

}  // namespace vmm::user_net
