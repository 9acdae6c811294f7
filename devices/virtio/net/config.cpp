#include "devices/virtio/net/config.h"

#include <array>

#include "src/base/text.h"

namespace vmm::virtio {
namespace {

constexpr std::array<std::string_view, 18> kKeys = {
    "none", "user",    "tap", "fd",       "socket", "mac",      "mtu",     "queues",   "vhost",
    "dns",  "network", "net", "hostname", "ipv6",   "loopback", "hostfwd", "restrict", "gateway"};
constexpr std::array<std::string_view, 5> kKinds = {"none", "user", "tap", "fd", "socket"};

Result<bool> parse_switch(std::string_view key, std::string_view value) {
  if (value == "on") return true;
  if (value == "off") return false;
  return fail("{} '{}' is not right: on or off is", key, value);
}

Result<VhostMode> parse_vhost(std::string_view value) {
  if (value == "auto") return VhostMode::automatic;
  if (value == "on") return VhostMode::on;
  if (value == "off") return VhostMode::off;
  return fail("vhost '{}' is not right: auto, on or off is", value);
}

Result<void> parse_kind(NetConfig& config, std::string_view key, std::string_view value) {
  if (key == "none") {
    config.kind = NetKind::none;
  } else if (key == "user") {
    config.kind = NetKind::user;
  } else if (key == "tap") {
    config.kind = NetKind::tap;
    config.tap = value;
  } else if (key == "fd") {
    config.kind = NetKind::tap;
    for (const auto part : split(value, ':')) {
      config.fds.push_back(
          static_cast<int>(TRY(parse_number(part, 0, 1 << 20, "a tap's descriptor"))));
    }
    config.queues = static_cast<unsigned>(config.fds.size());
  } else if (key == "socket") {
    config.kind = NetKind::socket;
    config.socket = value;
  } else {
    return fail("unknown network '{}'{}: user, tap=NAME, fd=N, socket=PATH or none is right", key,
                did_you_mean(key, kKinds));
  }
  return {};
}

Result<void> parse_user_key(user_net::Config& user, std::string_view key, std::string_view value) {
  if (key == "network" || key == "net") return user.set_network(value);
  if (key == "gateway") {
    user.gateway = TRY(user_net::Ipv4Address::parse(value));
  } else if (key == "dns") {
    user.dns = TRY(user_net::Ipv4Address::parse(value));
  } else if (key == "hostname") {
    user.hostname = value;
  } else if (key == "ipv6") {
    user.ipv6 = TRY(parse_switch(key, value));
  } else if (key == "loopback") {
    user.host_loopback = TRY(parse_switch(key, value));
  } else if (key == "restrict") {
    user.restricted = TRY(parse_switch(key, value));
  } else if (key == "hostfwd") {
    user.forwards.push_back(TRY(user_net::HostForward::parse(value)));
  } else {
    return fail("unknown network key '{}'{}", key, did_you_mean(key, kKeys));
  }
  return {};
}

Result<void> parse_key(NetConfig& config, std::string_view key, std::string_view value) {
  if (key == "mac") {
    config.mac = TRY(net::MacAddress::parse(value));
  } else if (key == "mtu") {
    config.mtu = static_cast<std::uint16_t>(TRY(parse_number(value, 576, 65521, "mtu")));
  } else if (key == "queues") {
    config.queues = static_cast<unsigned>(TRY(parse_number(value, 1, kMaxQueuePairs, "queues")));
  } else if (key == "vhost") {
    config.vhost = TRY(parse_vhost(value));
  } else {
    const bool of_user = config.kind == NetKind::user;
    if (!of_user && nearest_name(key, kKeys) == key) {
      return fail("network key '{}' is for user networks only", key);
    }
    return parse_user_key(config.user, key, value);
  }
  return {};
}

}  // namespace

Result<NetConfig> parse_net_config(std::string_view text) {
  NetConfig config;
  bool first = true;
  for (const auto part : split(text, ',')) {
    const auto equals = part.find('=');
    const auto key = part.substr(0, equals);
    const auto value =
        equals == std::string_view::npos ? std::string_view() : part.substr(equals + 1);
    if (std::exchange(first, false)) {
      TRY(parse_kind(config, key, value));
    } else {
      TRY(parse_key(config, key, value));
    }
  }
  TRY(check(config));
  return config;
}

Result<void> check(const NetConfig& config) {
  const bool tap = config.kind == NetKind::tap;
  if (tap && config.tap.empty() == config.fds.empty()) {
    return fail("a tap network needs a name or descriptors: tap=NAME or fd=N");
  }
  if (config.kind == NetKind::socket && config.socket.empty()) {
    return fail("a socket network needs a path: socket=PATH");
  }
  if (config.queues == 0 || config.queues > kMaxQueuePairs) {
    return fail("queues {} is not right: a whole number from 1 to {} is", config.queues,
                kMaxQueuePairs);
  }
  if (!tap && config.queues != 1) {
    return fail("queues={} needs a tap: other networks have one queue", config.queues);
  }
  if (!config.fds.empty() && config.fds.size() != config.queues) {
    return fail("queues={} needs as many descriptors, and fd names {}", config.queues,
                config.fds.size());
  }
  if (!tap && config.vhost == VhostMode::on) return fail("vhost=on needs a tap");
  if (config.kind == NetKind::user) return config.user.check();
  return {};
}

}  // namespace vmm::virtio
