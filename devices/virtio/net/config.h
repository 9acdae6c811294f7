// NetConfig: what a network device is asked to be.
//
//   auto config = TRY(parse_net_config("user,hostfwd=tcp::8080-:80"));
//   auto config = TRY(parse_net_config("tap=vmtap0,queues=2,mac=52:54:00:12:34:56"));
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "devices/backend/net/mac_address.h"
#include "src/spec/fields.h"
#include "src/user_net/config.h"

namespace vmm::virtio {

enum class NetKind : std::uint8_t {
  none,       // no network device
  user,       // rootless, through a process of its own
  tap,        // a tap of the host
  socket,     // an Ethernet socket that a network process listens at
  unplugged,  // a card whose link is down
};

enum class VhostMode : std::uint8_t {
  automatic,  // the host's kernel serves the queues where it can
  on,         // it must
  off,
};

inline constexpr unsigned kMaxQueuePairs = 16;

struct NetConfig {
  NetKind kind = NetKind::none;
  std::string tap;                     // its name, or
  std::vector<int> fds;                // its queues, opened by somebody else
  std::string socket;                  // a path
  std::optional<net::MacAddress> mac;  // made up when not given
  unsigned queues = 1;                 // pairs
  std::optional<std::uint16_t> mtu;    // told to the guest when given
  VhostMode vhost = VhostMode::automatic;
  user_net::Config user;
  friend bool operator==(const NetConfig&, const NetConfig&) = default;
};

spec::Fields fields_of(NetConfig& net);
// KIND[,key=value...], KIND one of none, user, tap=NAME, fd=N[:N...], socket=PATH, unplugged.
Result<NetConfig> parse_net_config(std::string_view words);

// The card with what `given` connects it to. Its address, queues and MTU stay.
Result<NetConfig> plug_in(const NetConfig& card, const NetConfig& given);
// The card with no link.
NetConfig unplug(const NetConfig& card);

// Keys that fit their kind, numbers in their ranges.
Result<void> check(const NetConfig& config);

}  // namespace vmm::virtio
