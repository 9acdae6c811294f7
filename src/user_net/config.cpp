#include "src/user_net/config.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

#include "src/base/text.h"

namespace vmm::user_net {
namespace {

std::uint32_t mask_of(unsigned prefix) { return ~std::uint32_t{0} << (32 - prefix); }

constexpr std::string_view kForward =
    "a forwarded port: tcp:[ADDRESS]:PORT-[ADDRESS]:PORT is, such as tcp::8080-:80, "
    "tcp::8000-8010-:8000-8010 or tcp:[::1]:8080-:80";
constexpr std::string_view kHostEnd =
    "a port of the host: tcp:[ADDRESS]:PORT is, such as tcp::8080, tcp::8000-8010 or "
    "tcp:[::1]:8080";

// Reads a forwarded port from left to right.
class ForwardReader {
 public:
  ForwardReader(std::string_view text, std::string_view expected)
      : text_(text), rest_(text), expected_(expected) {}

  std::unexpected<Error> bad() const { return fail("'{}' is not {}", text_, expected_); }
  bool take(char expected) {
    if (!rest_.starts_with(expected)) return false;
    rest_.remove_prefix(1);
    return true;
  }
  std::string_view take_until(std::string_view ends) {
    const auto part = rest_.substr(0, rest_.find_first_of(ends));
    rest_.remove_prefix(part.size());
    return part;
  }
  bool at_end() const { return rest_.empty(); }

  struct End {
    std::optional<IpAddress> address;
    std::uint16_t first = 0, last = 0;
  };
  // "ADDRESS:PORT", "[ADDRESS]:FIRST-LAST", ":PORT".
  Result<End> take_end() {
    End end;
    if (take('[')) {
      end.address = TRY(IpAddress::parse(take_until("]")));
      if (!take(']')) return bad();
    } else if (!rest_.starts_with(':')) {
      const auto address = take_until(":");
      if (at_end()) return bad();
      end.address = TRY(Ipv4Address::parse(address));
    }
    if (!take(':')) return bad();
    end.first = end.last = TRY(take_port());
    // A number behind the dash, and not what the other end begins with.
    const auto next = rest_.substr(rest_.starts_with('-') ? 1 : 0);
    const auto digits = next.substr(0, next.find_first_not_of("0123456789"));
    const auto behind = next.substr(digits.size());
    if (!rest_.starts_with('-') || digits.empty() || behind.starts_with('.')) return end;
    (void)take('-');
    end.last = TRY(take_port());
    if (end.last < end.first) {
      return fail("forwarded port '{}': {}-{} is not a range", text_, end.first, end.last);
    }
    return end;
  }
  // "tcp:ADDRESS:PORT", and the address if there is one. One that is not given is the loopback;
  // "0.0.0.0" must be meant.
  Result<std::pair<HostForward, std::optional<IpAddress>>> take_host_end() {
    HostForward forward;
    const auto protocol = take_until(":");
    if (protocol == "udp") {
      forward.protocol = HostForward::Protocol::udp;
    } else if (protocol != "tcp") {
      return bad();
    }
    if (!take(':')) return bad();
    const auto host = TRY(take_end());
    if (host.address) forward.host = *host.address;
    forward.host_port = host.first;
    forward.count = static_cast<std::uint16_t>(host.last - host.first + 1);
    return std::pair(forward, host.address);
  }

 private:
  Result<std::uint16_t> take_port() {
    return static_cast<std::uint16_t>(TRY(parse_number(take_until("-"), 1, 65535, "port")));
  }

  std::string_view text_, rest_, expected_;
};

std::string end_text(const IpAddress& address, bool given, std::uint16_t first,
                     std::uint16_t count) {
  const auto text = !given              ? std::string()
                    : address.is_ipv4() ? address.text()
                                        : fmt::format("[{}]", address.text());
  return count == 1 ? fmt::format("{}:{}", text, first)
                    : fmt::format("{}:{}-{}", text, first, first + count - 1);
}

}  // namespace

Result<HostForward> HostForward::parse(std::string_view text) {
  ForwardReader reader(text, kForward);
  auto [forward, host] = TRY(reader.take_host_end());
  if (!reader.take('-')) return reader.bad();
  const auto guest = TRY(reader.take_end());
  if (!reader.at_end()) return reader.bad();
  if (!host && guest.address && !guest.address->is_ipv4()) forward.host = ipv6(0, 1);
  if (guest.address) forward.guest = *guest.address;
  const unsigned count = guest.last - guest.first + 1u;
  if (forward.count != count) {
    return fail("forwarded port '{}': {} ports of the host, and {} of the guest", text,
                forward.count, count);
  }
  forward.guest_port = guest.first;
  return forward;
}

Result<HostForward> HostForward::parse_host_end(std::string_view text) {
  ForwardReader reader(text, kHostEnd);
  const auto [forward, address] = TRY(reader.take_host_end());
  if (!reader.at_end()) return reader.bad();
  return forward;
}

std::string HostForward::host_end_text() const {
  return fmt::format("{}:{}", protocol == Protocol::tcp ? "tcp" : "udp",
                     end_text(host, true, host_port, count));
}

std::string HostForward::text() const {
  return fmt::format("{}-{}", host_end_text(),
                     end_text(guest, guest != IpAddress{}, guest_port, count));
}

bool HostForward::overlaps(const HostForward& other) const {
  return protocol == other.protocol && host == other.host &&
         host_port < other.host_port + other.count && other.host_port < host_port + count;
}

HostForward HostForward::one(unsigned i) const {
  auto port = *this;
  port.host_port = static_cast<std::uint16_t>(host_port + i);
  port.guest_port = static_cast<std::uint16_t>(guest_port + i);
  port.count = 1;
  return port;
}

std::unexpected<Error> not_published(const HostForward& port) {
  const auto text = fmt::format("cannot publish {} port {} of {}",
                                port.protocol == HostForward::Protocol::udp ? "udp" : "tcp",
                                port.host_port, port.host.text());
  switch (errno) {
    case EADDRINUSE:
      return fail("{}: it is taken", text);
    case EACCES:
      return fail("{}: ports below 1024 need privilege", text);
    case EADDRNOTAVAIL:
      return fail("{}: the host has no such address", text);
    default:
      return fail_errno("{}", text);
  }
}

Result<std::vector<HostForward>> without(std::vector<HostForward> forwards,
                                         const HostForward& host_end) {
  const unsigned first = host_end.host_port, end = first + host_end.count;
  for (unsigned port = first; port < end;) {
    const auto found = std::ranges::find_if(forwards, [&](const HostForward& forward) {
      return forward.overlaps(host_end.one(port - first));
    });
    if (found == forwards.end()) {
      return fail("{} is not published", host_end.one(port - first).host_end_text());
    }
    // What is left of it, before and behind.
    const auto whole = *found;
    const unsigned begin = port - whole.host_port;
    const unsigned behind = std::min<unsigned>(end - whole.host_port, whole.count);
    auto place = forwards.erase(found);
    for (const auto& [from, to] :
         {std::pair{0u, begin}, std::pair{behind, unsigned{whole.count}}}) {
      if (from == to) continue;
      auto left = whole.one(from);
      left.count = static_cast<std::uint16_t>(to - from);
      place = forwards.insert(place, left) + 1;
    }
    port = whole.host_port + behind;
  }
  return forwards;
}

sockaddr_storage NameServer::socket_address(std::uint16_t port) const {
  auto storage = address.socket_address(port);
  if (storage.ss_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&storage)->sin6_scope_id = scope;
  }
  return storage;
}

Result<void> Config::set_network(std::string_view text) {
  const auto slash = text.find('/');
  if (slash == std::string_view::npos) {
    return fail("'{}' is not a network such as 10.0.2.0/24", text);
  }
  const auto address = TRY(Ipv4Address::parse(text.substr(0, slash)));
  // A /27 is the smallest that has a .15 for the guest.
  prefix =
      static_cast<unsigned>(TRY(parse_number(text.substr(slash + 1), 8, 27, "network prefix")));
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
  std::size_t published = 0;
  for (const auto& forward : forwards) {
    const bool ipv4 = forward.host.is_ipv4();
    const bool given = forward.guest != IpAddress{};
    published += forward.count;
    if (!ipv4 && !ipv6) {
      return fail("forwarded port '{}': IPv6 reaches the guest with ipv6=on", forward.text());
    }
    if (given && forward.guest.is_ipv4() != ipv4) {
      return fail("forwarded port '{}': both ends need addresses of one family", forward.text());
    }
    if (given && ipv4 && !inside(forward.guest.to_ipv4())) {
      return fail("forwarded port '{}': {} is outside of the network {}/{}", forward.text(),
                  forward.guest.text(), network.text(), prefix);
    }
    if (given && !ipv4 && !kNetwork6.contains(forward.guest)) {
      return fail("forwarded port '{}': {} is outside of the network {}", forward.text(),
                  forward.guest.text(), kNetwork6.text());
    }
  }
  if (published > kMostPublished) {
    return fail("{} forwarded ports: expected at most {}", published, kMostPublished);
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
  if (config.host_loopback) arguments.push_back("--host-loopback=on");
  if (config.restricted) arguments.push_back("--restricted=on");
  for (const auto& network : config.denied) arguments.push_back("--deny=" + network.text());
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
    } else if (key == "--deny") {
      config.denied.push_back(TRY(IpNetwork::parse(value)));
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
