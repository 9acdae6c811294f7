#include "src/user_net/config.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>

#include "src/base/text.h"

namespace vmm::user_net {
namespace {

constexpr std::string_view kForwardShape = "tcp:[ADDRESS]:PORT-[ADDRESS]:PORT";

std::uint32_t mask_of(unsigned prefix) { return ~std::uint32_t{0} << (32 - prefix); }

// "[ADDRESS]:PORT"
Result<std::pair<Ipv4Address, std::uint16_t>> parse_end(std::string_view text,
                                                        std::string_view whole) {
  const auto colon = text.find(':');
  if (colon == std::string_view::npos) {
    return fail("'{}' is not a forwarded port: {} is, such as tcp::8080-:80", whole, kForwardShape);
  }
  Ipv4Address address;
  if (colon != 0) address = TRY(Ipv4Address::parse(text.substr(0, colon)));
  const auto port = TRY(parse_number(text.substr(colon + 1), 1, 65535, "port"));
  return std::pair(address, static_cast<std::uint16_t>(port));
}

}  // namespace

Result<Ipv4Address> Ipv4Address::parse(std::string_view text) {
  in_addr address{};
  if (::inet_pton(AF_INET, std::string(text).c_str(), &address) != 1) {
    return fail("'{}' is not an IPv4 address such as 10.0.2.15", text);
  }
  return Ipv4Address{ntohl(address.s_addr)};
}

std::string Ipv4Address::text() const {
  return fmt::format("{}.{}.{}.{}", value >> 24, value >> 16 & 255, value >> 8 & 255, value & 255);
}

Result<HostForward> HostForward::parse(std::string_view text) {
  HostForward forward;
  const auto colon = text.find(':');
  const auto protocol = text.substr(0, colon);
  if (protocol == "udp") {
    forward.protocol = Protocol::udp;
  } else if (protocol != "tcp") {
    return fail("'{}' is not a forwarded port: {} is, such as tcp::8080-:80", text, kForwardShape);
  }
  const auto rest = colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1);
  const auto dash = rest.find('-');
  if (dash == std::string_view::npos) {
    return fail("'{}' is not a forwarded port: {} is, such as tcp::8080-:80", text, kForwardShape);
  }
  const auto [host, host_port] = TRY(parse_end(rest.substr(0, dash), text));
  const auto [guest, guest_port] = TRY(parse_end(rest.substr(dash + 1), text));
  // An address that is not given is the loopback; "0.0.0.0" must be meant.
  if (rest[0] != ':') forward.host = host;
  forward.host_port = host_port;
  forward.guest = guest;
  forward.guest_port = guest_port;
  return forward;
}

std::string HostForward::text() const {
  return fmt::format("{}:{}:{}-{}:{}", protocol == Protocol::tcp ? "tcp" : "udp", host.text(),
                     host_port, guest.value == 0 ? std::string() : guest.text(), guest_port);
}

Result<void> Config::set_network(std::string_view text) {
  const auto slash = text.find('/');
  if (slash == std::string_view::npos) {
    return fail("'{}' is not a network such as 10.0.2.0/24", text);
  }
  const auto address = TRY(Ipv4Address::parse(text.substr(0, slash)));
  // A /27 is the smallest that has a .15 for the guest.
  prefix = static_cast<unsigned>(
      TRY(parse_number(text.substr(slash + 1), 8, 27, "the prefix of a network")));
  network = {address.value & mask_of(prefix)};
  if (network != address) {
    return fail("'{}' is not a network: its address is {}", text, network.text());
  }
  gateway = {network.value + 2};
  dns = {network.value + 3};
  dhcp_start = {network.value + 15};
  return {};
}

Result<void> Config::check() const {
  const auto inside = [this](Ipv4Address address) {
    return (address.value & mask_of(prefix)) == network.value && address != network &&
           address.value != (network.value | ~mask_of(prefix));
  };
  const std::array<std::pair<std::string_view, Ipv4Address>, 3> own = {
      {{"gateway", gateway}, {"dns", dns}, {"dhcp-start", dhcp_start}}};
  for (const auto& [what, address] : own) {
    if (!inside(address)) {
      return fail("{} {} is outside of the network {}/{}", what, address.text(), network.text(),
                  prefix);
    }
  }
  if (gateway == dns || gateway == dhcp_start || dns == dhcp_start) {
    return fail("gateway {}, dns {} and dhcp-start {} must differ", gateway.text(), dns.text(),
                dhcp_start.text());
  }
  for (const auto& forward : forwards) {
    if (forward.guest.value != 0 && !inside(forward.guest)) {
      return fail("forwarded port '{}': {} is outside of the network {}/{}", forward.text(),
                  forward.guest.text(), network.text(), prefix);
    }
  }
  if (mtu < 576) return fail("mtu {} is less than 576", mtu);
  return {};
}

std::vector<std::string> to_arguments(const Config& config) {
  std::vector<std::string> arguments = {
      fmt::format("--network={}/{}", config.network.text(), config.prefix),
      "--gateway=" + config.gateway.text(),
      "--dns=" + config.dns.text(),
      "--dhcp-start=" + config.dhcp_start.text(),
      fmt::format("--mtu={}", config.mtu),
  };
  if (!config.hostname.empty()) arguments.push_back("--hostname=" + config.hostname);
  if (config.ipv6) arguments.push_back("--ipv6=on");
  if (!config.host_loopback) arguments.push_back("--host-loopback=off");
  if (config.restricted) arguments.push_back("--restricted=on");
  for (const auto& forward : config.forwards) {
    arguments.push_back("--hostfwd=" + forward.text());
  }
  return arguments;
}

Result<Config> from_arguments(const std::vector<std::string>& arguments) {
  Config config;
  for (const auto& argument : arguments) {
    const auto equals = argument.find('=');
    const std::string_view key = std::string_view(argument).substr(0, equals);
    const std::string_view value = equals == std::string::npos
                                       ? std::string_view()
                                       : std::string_view(argument).substr(equals + 1);
    if (key == "--network") {
      TRY(config.set_network(value));
    } else if (key == "--gateway") {
      config.gateway = TRY(Ipv4Address::parse(value));
    } else if (key == "--dns") {
      config.dns = TRY(Ipv4Address::parse(value));
    } else if (key == "--dhcp-start") {
      config.dhcp_start = TRY(Ipv4Address::parse(value));
    } else if (key == "--mtu") {
      config.mtu = static_cast<std::uint16_t>(TRY(parse_number(value, 576, 65521, "mtu")));
    } else if (key == "--hostname") {
      config.hostname = value;
    } else if (key == "--ipv6") {
      config.ipv6 = value == "on";
    } else if (key == "--host-loopback") {
      config.host_loopback = value == "on";
    } else if (key == "--restricted") {
      config.restricted = value == "on";
    } else if (key == "--hostfwd") {
      config.forwards.push_back(TRY(HostForward::parse(value)));
    } else {
      return fail("unknown option '{}'", argument);
    }
  }
  TRY(config.check());
  return config;
}

}  // namespace vmm::user_net
