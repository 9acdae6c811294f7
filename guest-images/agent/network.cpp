#include "guest-images/agent/network.h"

#include <arpa/inet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/base/text.h"
#include "src/base/unique_fd.h"

namespace vmm::agent {
namespace {

using protocol::agent::Interface;
using protocol::agent::Route;

struct Address {
  int family = AF_INET;
  unsigned prefix = 0;  // bits
  std::array<std::byte, 16> bytes{};
  std::size_t size() const { return family == AF_INET ? 4 : 16; }
  std::span<const std::byte> value() const { return std::span(bytes).first(size()); }
};

// "10.0.0.2/24", "fd00::2/64"; without a slash, all bits.
Result<Address> parse_address(const std::string& text) {
  Address address;
  const auto slash = text.find('/');
  const std::string host = text.substr(0, slash);
  if (host.contains(':')) address.family = AF_INET6;
  if (::inet_pton(address.family, host.c_str(), address.bytes.data()) != 1) {
    return fail("invalid address '{}'", text);
  }
  address.prefix = static_cast<unsigned>(address.size() * 8);
  if (slash != std::string::npos) {
    address.prefix = static_cast<unsigned>(
        TRY(parse_number(text.substr(slash + 1), 0, address.prefix, "prefix")));
  }
  return address;
}

// One request: a header, a fixed part, attributes.
class Request {
 public:
  template <typename Fixed>
  Request(std::uint16_t type, unsigned flags, const Fixed& fixed) {
    append(nlmsghdr{0, type, static_cast<std::uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags), 1, 0});
    append(fixed);
  }
  void attribute(std::uint16_t type, std::span<const std::byte> value) {
    append(rtattr{static_cast<std::uint16_t>(RTA_LENGTH(value.size())), type});
    bytes_.insert(bytes_.end(), value.begin(), value.end());
    bytes_.resize(NLMSG_ALIGN(bytes_.size()));
  }
  void attribute(std::uint16_t type, std::uint32_t value) {
    attribute(type, std::as_bytes(std::span(&value, 1)));
  }
  std::span<const std::byte> finish() {
    const auto length = static_cast<std::uint32_t>(bytes_.size());
    std::memcpy(bytes_.data(), &length, sizeof length);
    return bytes_;
  }

 private:
  template <typename T>
  void append(const T& part) {
    const auto bytes = std::as_bytes(std::span(&part, 1));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    bytes_.resize(NLMSG_ALIGN(bytes_.size()));
  }
  std::vector<std::byte> bytes_;
};

class Netlink {
 public:
  static Result<Netlink> open() {
    UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    if (!socket) return fail_errno("cannot open a netlink socket");
    return Netlink(std::move(socket));
  }
  // Waits for the kernel's answer, which comes at once; errno in the error.
  Result<void> ask(Request request, const std::string& what) const {
    const auto bytes = request.finish();
    struct {
      nlmsghdr header;
      nlmsgerr error;
      std::array<std::byte, 1024> rest;
    } answer{};
    if (::send(socket_.get(), bytes.data(), bytes.size(), 0) < 0 ||
        ::recv(socket_.get(), &answer, sizeof answer, 0) < 0) {
      return fail_errno("cannot {}", what);
    }
    if (answer.header.nlmsg_type != NLMSG_ERROR) return fail("cannot {}: no answer", what);
    if (answer.error.error == 0) return {};
    errno = -answer.error.error;
    return fail_errno("cannot {}", what);
  }

 private:
  explicit Netlink(UniqueFd socket) : socket_(std::move(socket)) {}
  UniqueFd socket_;
};

Result<std::array<std::byte, 6>> parse_mac(const std::string& text) {
  std::array<unsigned, 6> parts{};
  std::array<std::byte, 6> mac{};
  char rest = 0;
  if (std::sscanf(text.c_str(), "%2x:%2x:%2x:%2x:%2x:%2x%c", &parts[0], &parts[1], &parts[2],
                  &parts[3], &parts[4], &parts[5], &rest) != 6) {
    return fail("invalid MAC address '{}'", text);
  }
  for (std::size_t i = 0; i < mac.size(); ++i) mac[i] = static_cast<std::byte>(parts[i]);
  return mac;
}

Result<void> change_link(const Netlink& netlink, unsigned index, const Interface& interface) {
  ifinfomsg link{};
  link.ifi_index = static_cast<int>(index);
  if (!interface.mac.empty()) {
    // Some drivers change it only while the link is down, which also takes its routes away.
    link.ifi_change = IFF_UP;
    TRY(netlink.ask(Request(RTM_NEWLINK, 0, link), "set '" + interface.name + "' down"));
    Request request(RTM_NEWLINK, 0, link);
    request.attribute(IFLA_ADDRESS, TRY(parse_mac(interface.mac)));
    TRY(netlink.ask(std::move(request), "set the MAC address of '" + interface.name + "'"));
  }
  link.ifi_flags = link.ifi_change = IFF_UP;
  Request request(RTM_NEWLINK, 0, link);
  if (interface.mtu != 0) request.attribute(IFLA_MTU, interface.mtu);
  return netlink.ask(std::move(request), "set '" + interface.name + "' up");
}

// The addresses that it had when it was saved. Their routes go with them.
Result<void> remove_addresses(const Netlink& netlink, unsigned index) {
  for (;;) {
    ifaddrmsg wanted{};
    wanted.ifa_family = AF_INET;
    wanted.ifa_index = index;
    const auto removed = netlink.ask(Request(RTM_DELADDR, 0, wanted), "remove an address");
    if (removed) continue;
    if (removed.error().code() == EADDRNOTAVAIL) return {};
    return removed;
  }
}

Result<void> add_address(const Netlink& netlink, unsigned index, const std::string& text) {
  const Address address = TRY(parse_address(text));
  ifaddrmsg fixed{};
  fixed.ifa_family = static_cast<std::uint8_t>(address.family);
  fixed.ifa_prefixlen = static_cast<std::uint8_t>(address.prefix);
  fixed.ifa_index = index;
  // An address is used at once: nobody else on this network has it.
  if (address.family == AF_INET6) fixed.ifa_flags = IFA_F_NODAD;
  Request request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, fixed);
  request.attribute(IFA_LOCAL, address.value());
  request.attribute(IFA_ADDRESS, address.value());
  return netlink.ask(std::move(request), "add the address '" + text + "'");
}

Result<void> add_route(const Netlink& netlink, unsigned index, const Route& route) {
  if (route.gateway.empty() && route.destination.empty()) return fail("a route to nowhere");
  rtmsg fixed{};
  fixed.rtm_table = RT_TABLE_MAIN;
  fixed.rtm_protocol = RTPROT_BOOT;
  fixed.rtm_type = RTN_UNICAST;
  fixed.rtm_scope = route.gateway.empty() ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
  const Address gateway = route.gateway.empty() ? Address() : TRY(parse_address(route.gateway));
  const Address destination =
      route.destination.empty() ? Address() : TRY(parse_address(route.destination));
  const Address& known = route.gateway.empty() ? destination : gateway;
  fixed.rtm_family = static_cast<std::uint8_t>(known.family);
  fixed.rtm_dst_len = static_cast<std::uint8_t>(destination.prefix);
  Request request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, fixed);
  if (!route.destination.empty()) request.attribute(RTA_DST, destination.value());
  if (!route.gateway.empty()) request.attribute(RTA_GATEWAY, gateway.value());
  request.attribute(RTA_OIF, index);
  return netlink.ask(std::move(request),
                     "add the route '" + route.destination + "' by '" + route.gateway + "'");
}

// Until the link is up, what is sent is dropped, and its sender waits for seconds. The driver hears
// in its own time of a card that was connected while the machine stood still; one that stays
// without a link is no error.
void wait_for_link(const std::string& name) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::seconds kPatience{2};
  // Before the first look: what changes behind it is heard of.
  const UniqueFd changes(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK;
  if (::bind(changes.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return;
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  name.copy(request.ifr_name, sizeof request.ifr_name - 1);
  for (const auto deadline = Clock::now() + kPatience;;) {
    if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) < 0) return;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if ((request.ifr_flags & IFF_RUNNING) != 0 || left.count() <= 0) return;
    pollfd change{changes.get(), POLLIN, 0};
    (void)::poll(&change, 1, static_cast<int>(left.count()));  // the loop looks again
    std::array<char, 16384> messages;
    while (::recv(changes.get(), messages.data(), messages.size(), MSG_DONTWAIT) > 0) {
    }
  }
}

}  // namespace

Result<void> set_up_interface(const Interface& interface) {
  const unsigned index = ::if_nametoindex(interface.name.c_str());
  if (index == 0) return fail_errno("no interface '{}'", interface.name);
  const auto netlink = TRY(Netlink::open());
  TRY(remove_addresses(netlink, index));
  TRY(change_link(netlink, index, interface));
  for (const std::string& address : interface.addresses) TRY(add_address(netlink, index, address));
  for (const Route& route : interface.routes) TRY(add_route(netlink, index, route));
  if (!interface.addresses.empty()) wait_for_link(interface.name);
  return {};
}

}  // namespace vmm::agent
