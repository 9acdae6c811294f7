// Config: what a user-mode network looks like to its guests, and which of their ports the host
// publishes. Typed for the machine; as command-line options for the process that serves it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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

// A port of the host whose connections reach the guest.
struct HostForward {
  enum class Protocol : std::uint8_t { tcp, udp };
  Protocol protocol = Protocol::tcp;
  Ipv4Address host = ipv4(127, 0, 0, 1);
  std::uint16_t host_port = 0;
  Ipv4Address guest;  // not given: the address that DHCP hands out
  std::uint16_t guest_port = 0;

  // "tcp:[ADDRESS]:PORT-[ADDRESS]:PORT", "udp:...".
  static Result<HostForward> parse(std::string_view text);
  std::string text() const;
  friend bool operator==(const HostForward&, const HostForward&) = default;
};

struct Config {
  Ipv4Address network = ipv4(10, 0, 2, 0);
  unsigned prefix = 24;
  Ipv4Address gateway = ipv4(10, 0, 2, 2);      // this host, and the way out
  Ipv4Address dns = ipv4(10, 0, 2, 3);          // forwards to the host's name server
  Ipv4Address dhcp_start = ipv4(10, 0, 2, 15);  // what the guest gets
  std::string hostname;                         // told by DHCP when not empty
  std::vector<HostForward> forwards;
  std::uint16_t mtu = 1500;
  bool ipv6 = false;
  // Whether the guest reaches services on the host's loopback at `gateway`.
  bool host_loopback = true;
  // Whether the guest reaches anything but what is forwarded to it.
  bool restricted = false;

  // "10.0.2.0/24": sets the network, and gateway, dns and dhcp_start to its .2, .3 and .15.
  Result<void> set_network(std::string_view text);
  // Addresses inside of the network, distinct, and so on.
  Result<void> check() const;
};

// The options of the network process that stand for `config`, and back.
std::vector<std::string> to_arguments(const Config& config);
Result<Config> from_arguments(const std::vector<std::string>& arguments);

}  // namespace vmm::user_net
