#include "devices/virtio/net/config.h"

#include <fmt/ranges.h>

#include <memory>

#include "src/base/text.h"
#include "src/spec/items.h"

namespace vmm::virtio {
namespace {

using spec::Item;
using spec::Value;

constexpr std::array<std::pair<std::string_view, VhostMode>, 3> kVhostModes = {
    {{"auto", VhostMode::automatic}, {"on", VhostMode::on}, {"off", VhostMode::off}}};
constexpr int kMostDescriptor = 1 << 20;

// Of one declaration: which kind was said. There can only be one.
class Kinds {
 public:
  explicit Kinds(NetConfig& net) : net_(&net) {}

  Result<void> choose(NetKind kind) const {
    if (*chosen_) return fail("a network has only one kind");
    *chosen_ = true;
    net_->kind = kind;
    return {};
  }
  // A card that is connected to nothing is there, with no link.
  Result<void> check() const {
    if (!*chosen_) net_->kind = NetKind::unplugged;
    return virtio::check(*net_);
  }
  // A kind that is said alone: "user", or true.
  Item alone(NetKind kind) const {
    return {.type = spec::Type::toggle,
            .set = [self = *this, kind](const Value& value) -> Result<void> {
              if (!*value.as<bool>()) return fail("it can only be true, or missing");
              return self.choose(kind);
            },
            .get = [net = net_, kind] { return net->kind == kind ? Value(true) : Value(); }};
  }
  // One that is said with a name.
  Item named(NetKind kind, std::string& name) const {
    auto item = spec::text(name);
    item.set = [self = *this, kind, set = item.set](const Value& value) -> Result<void> {
      TRY(self.choose(kind));
      return set(value);
    };
    item.get = [net = net_, kind, &name] {
      return net->kind == kind && !name.empty() ? Value(name) : Value();
    };
    return item;
  }
  // Open queues of a tap: "5:6" in words, a list of numbers in JSON.
  Item descriptors() const {
    return {.type = spec::Type::list,
            .set = [self = *this](const Value& value) { return self.add_descriptors(value); },
            .get =
                [net = net_] {
                  spec::List list;
                  for (const int fd : net->fds) list.push_back(Value(std::uint64_t(fd)));
                  return list.empty() ? Value() : Value(std::move(list));
                }};
  }

 private:
  Result<void> add_descriptors(const Value& value) const {
    auto& fds = net_->fds;
    if (fds.empty()) TRY(choose(NetKind::tap));
    if (const auto* number = value.as<std::uint64_t>(); number && *number <= kMostDescriptor) {
      fds.push_back(static_cast<int>(*number));
    } else if (const auto* text = value.as<std::string>()) {
      for (const auto part : split(*text, ':')) {
        fds.push_back(
            static_cast<int>(TRY(parse_number(part, 0, kMostDescriptor, "tap descriptor"))));
      }
    } else {
      return spec::invalid(value, fmt::format("a whole number from 0 to {}", kMostDescriptor));
    }
    net_->queues = static_cast<unsigned>(fds.size());
    return {};
  }

  NetConfig* net_;
  std::shared_ptr<bool> chosen_ = std::make_shared<bool>(false);
};

Item mtu(NetConfig& net) {
  auto item =
      spec::number_item([&net](std::uint64_t n) { net.mtu = static_cast<std::uint16_t>(n); },
                        [] { return std::uint64_t{0}; }, 576, 65521);
  item.get = [&net] { return net.mtu ? Value(std::uint64_t{*net.mtu}) : Value(); };
  return item;
}

Item user_network(user_net::Config& user) {
  return {.type = spec::Type::text,
          .set = [&user](const Value& value) { return user.set_network(*value.as<std::string>()); },
          .get = [&user] { return Value(fmt::format("{}/{}", user.network.text(), user.prefix)); }};
}

void add_user_keys(spec::Fields& fields, NetConfig& net) {
  auto& user = net.user;
  const auto add = [&](const spec::Key& key, Item item) {
    item.set = [&net, set = std::move(item.set)](const Value& value) -> Result<void> {
      if (net.kind != NetKind::user) return fail("this key is for user networks only");
      return set(value);
    };
    fields.add(key, std::move(item));
  };
  add(spec::host(
          {"hostfwd", "hostfwd=PROTO:ADDR:PORT-ADDR:PORT",
           "of user: a port of the host that reaches the guest, such as tcp::8080-:80, "
           "tcp::8000-8010-:8000-8010, udp:0.0.0.0:53-:53, or with ipv6=on tcp:[::1]:8080-:80"}),
      spec::parsed_list(user.forwards));
  // Before the addresses, whose defaults it gives.
  add({.name = "network",
       .form = "network=A.B.C.D/N",
       .help = "of user: the guest's network (10.0.2.0/24)",
       .also = "net"},
      user_network(user));
  add({"gateway", "gateway=ADDR", "of user: the address of the gateway"},
      spec::parsed(user.gateway));
  add({"dns", "dns=ADDR", "of user: the address of the name server"}, spec::parsed(user.dns));
  add({"hostname", "hostname=TEXT", "of user: the guest's name, by DHCP"},
      spec::text(user.hostname));
  add({"ipv6", "ipv6=on|off", "of user: an IPv6 network beside (off)"}, spec::toggle(user.ipv6));
  add({"restrict", "restrict=on|off", "of user: nothing is reached but published ports (off)"},
      spec::toggle(user.restricted));
  add(spec::host({"loopback", "loopback=on|off",
                  "of user: the host's loopback at the gateway's address (off)"}),
      spec::toggle(user.host_loopback));
  add({"deny", "deny=NETWORK",
       "of user: addresses that the guest cannot reach, such as 169.254.169.254 (a cloud's "
       "metadata) or 10.0.0.0/8; may be given more than once"},
      spec::parsed_list(user.denied));
}

}  // namespace

spec::Fields fields_of(NetConfig& net) {
  using spec::Lead;
  const Kinds kinds(net);
  spec::Fields fields("network");
  fields.add({"user", "user", "", Lead::kind}, kinds.alone(NetKind::user));
  fields.add(spec::host({"tap", "tap=NAME", "", Lead::kind}), kinds.named(NetKind::tap, net.tap));
  fields.add(spec::host({"fd", "fd=N", "", Lead::kind}), kinds.descriptors());
  fields.add(spec::host({"socket", "socket=PATH", "", Lead::kind}),
             kinds.named(NetKind::socket, net.socket));
  fields.add(spec::host({"unplugged", "unplugged", "", Lead::kind}),
             kinds.alone(NetKind::unplugged));
  fields.add(spec::host({"none", "none", "", Lead::kind}), kinds.alone(NetKind::none));
  fields.add(spec::host({"mac", "mac=ADDRESS", "made up when not given"}), spec::parsed(net.mac));
  fields.add({"mtu", "mtu=N", "told to the guest"}, mtu(net));
  fields.add({"queues", "queues=N", "of a tap: one thread each"},
             spec::number(net.queues, 1, kMaxQueuePairs));
  fields.add(spec::host({"vhost", "vhost=auto|on|off", "of a tap: served by the host's kernel"}),
             spec::choice(net.vhost, kVhostModes));
  add_user_keys(fields, net);
  fields.check_with([kinds] { return kinds.check(); });
  return fields;
}

Result<NetConfig> parse_net_config(std::string_view words) {
  return spec::from_words<NetConfig>(words);
}

Result<NetConfig> plug_in(const NetConfig& card, const NetConfig& given) {
  if (given.kind == NetKind::none || given.kind == NetKind::unplugged) {
    return fail("a network is missing: user, tap=NAME or socket=PATH is attached");
  }
  if (!given.fds.empty()) {
    return fail("fd={}: these are descriptors of another process; a tap is named: tap=NAME",
                fmt::join(given.fds, ":"));
  }
  const auto says_other = [](const auto& one, const auto& other) { return one && one != other; };
  if (says_other(given.mac, card.mac) || says_other(given.mtu, card.mtu) ||
      (given.queues != 1 && given.queues != card.queues)) {
    return fail("mac, mtu and queues are the card's, and stay");
  }
  auto plugged = given;
  plugged.mac = card.mac;
  plugged.mtu = card.mtu;
  plugged.queues = card.queues;
  TRY(check(plugged));
  return plugged;
}

NetConfig unplug(const NetConfig& card) {
  NetConfig unplugged;
  unplugged.kind = NetKind::unplugged;
  unplugged.mac = card.mac;
  unplugged.mtu = card.mtu;
  unplugged.queues = card.queues;
  return unplugged;
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
    return fail("invalid queues {}: expected 1 to {}", config.queues, kMaxQueuePairs);
  }
  if (!tap && config.kind != NetKind::unplugged && config.queues != 1) {
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
