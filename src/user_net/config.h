// Config: what a user-mode network looks like to its guests, and which of their ports the host
// publishes. Typed for the machine; as command-line options for the process that serves it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/user_net/address.h"
#include "src/user_net/virtio_net.h"

namespace vmm::user_net {

// Ports of the host whose connections reach the guest, by the same family of addresses: libslirp
// does not change it.
struct HostForward {
  enum class Protocol : std::uint8_t { tcp, udp };
  Protocol protocol = Protocol::tcp;
  IpAddress host = ipv4(127, 0, 0, 1);
  std::uint16_t host_port = 0;
  // Not given ("::"): what DHCP hands out, or the first IPv6 address that the guest makes itself.
  IpAddress guest;
  std::uint16_t guest_port = 0;
  std::uint16_t count = 1;  // of ports, from those two on

  // "tcp:ADDRESS:PORT-ADDRESS:PORT", "udp:...". An address may be left out, an IPv6 one stands in
  // brackets, and PORT may be FIRST-LAST at both ends.
  static Result<HostForward> parse(std::string_view text);
  // The host's end alone, "tcp::8080", "udp:[::1]:53", "tcp::8000-8010": the guest's says nothing.
  static Result<HostForward> parse_host_end(std::string_view text);
  std::string text() const;
  std::string host_end_text() const;
  // Whether a port of the host is in both.
  bool overlaps(const HostForward& other) const;
  // Port `i` of its `count`.
  HostForward one(unsigned i) const;
  friend bool operator==(const HostForward&, const HostForward&) = default;
};

// "cannot publish tcp port 80 of 127.0.0.1: ports below 1024 need privilege", by errno. `port`:
// one.
std::unexpected<Error> not_published(const HostForward& port);

// Without those ports of the host, each of which must be in the list.
Result<std::vector<HostForward>> without(std::vector<HostForward> forwards,
                                         const HostForward& host_end);

// libslirp's IPv6 network, as QEMU has it; a guest makes its own address in it.
inline constexpr IpNetwork kNetwork6{ipv6(0xfec0, 0), 64};
inline constexpr IpAddress kGateway6 = ipv6(0xfec0, 2);
inline constexpr IpAddress kDns6 = ipv6(0xfec0, 3);
inline constexpr std::uint16_t kDnsPort = 53;

// One of the host's.
struct NameServer {
  IpAddress address;
  std::uint32_t scope = 0;  // the interface of a link-local address

  sockaddr_storage socket_address(std::uint16_t port) const;
  friend bool operator==(const NameServer&, const NameServer&) = default;
};

inline constexpr std::size_t kMostPublished = 1024;

struct Config {
  Ipv4Address network = ipv4(10, 0, 2, 0);
  unsigned prefix = 24;
  Ipv4Address gateway = ipv4(10, 0, 2, 2);      // this host, and the way out
  Ipv4Address dns = ipv4(10, 0, 2, 3);          // forwards to the host's name servers
  Ipv4Address dhcp_start = ipv4(10, 0, 2, 15);  // what the guest gets
  std::string hostname;                         // told by DHCP when not empty
  std::vector<HostForward> forwards;
  std::uint16_t mtu = virtio_net::kDefaultMtu;
  bool ipv6 = false;
  // Whether the guest reaches services on the host's loopback at `gateway`.
  bool host_loopback = false;
  // What the guest may not reach; its own network's services stay.
  std::vector<IpNetwork> denied;
  // Whether the guest reaches anything but what is forwarded to it.
  bool restricted = false;

  // "10.0.2.0/24": sets the network, and gateway, dns and dhcp_start to its .2, .3 and .15.
  Result<void> set_network(std::string_view text);
  // Addresses inside of the network, distinct, and so on.
  Result<void> check() const;
  friend bool operator==(const Config&, const Config&) = default;
};

// The options of the network process that stand for `config`, and back.
std::vector<std::string> to_arguments(const Config& config);
Result<Config> from_arguments(const std::vector<std::string>& arguments);

}  // namespace vmm::user_net
