// NameConnections: queries by TCP. A connection to the name server's address, of either family,
// becomes one to a listener of ours on the host's loopback, on its way through libslirp like any
// other; from there its bytes go to the first of the host's name servers that takes a connection,
// whatever that one's family is, and back.
//
//   if (connections.is_query(packet) && !connections.redirect(frame, packet, servers)) ...  // none
//   frame = connections.answer(frame_for_guest);
//   connections.add_polls(polls, now_ms);  poll(...);  connections.run(polls, servers, now_ms);
//
// Other programs of the host reach the listener, too: they could ask those servers themselves, and
// the bounds are the same for all.
#pragma once

#include <poll.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/user_net/config.h"
#include "src/user_net/packet.h"

namespace vmm::user_net {

class NameConnections {
 public:
  static constexpr std::size_t kConnections = 32;      // at once; the oldest gives way
  static constexpr std::int64_t kPatienceMs = 10'000;  // without a byte in either direction
  static constexpr std::size_t kDescriptors = 2 + 2 * kConnections;

  explicit NameConnections(const Config& config);
  // Listens. Without IPv6 on the host's loopback, queries by it are refused.
  Result<void> set_up();

  bool is_query(const Packet& packet) const;
  // Makes `frame` one for the listener; false when there is no server.
  bool redirect(std::span<std::byte> frame, const Packet& packet,
                std::span<const NameServer> servers) const;
  // `frame` itself, or a copy that comes from the name server's address; valid until the next call.
  std::span<const std::byte> answer(std::span<const std::byte> frame);

  void add_polls(std::vector<pollfd>& polls, std::int64_t now_ms);
  // What add_polls() added, with its events.
  void run(std::span<const pollfd> polls, std::span<const NameServer> servers, std::int64_t now_ms);

 private:
  static constexpr std::size_t kMostWaiting = 16u << 10;  // bytes, a direction

  // Of one family.
  struct Door {
    IpAddress dns;      // whom the guest asks
    IpAddress gateway;  // the host's loopback, as the guest sees it
    UniqueFd listener;  // none: not to be had
    std::uint16_t port = 0;
  };
  struct Direction {
    std::vector<std::byte> waiting;
    bool ended = false;
    bool end_told = false;
  };
  struct Connection {
    UniqueFd guest, server;  // the guest's end is libslirp's
    bool connected = false;  // to the server
    std::size_t tries = 0;   // servers that took none
    std::int64_t since_ms = 0;
    Direction question, answer;
  };

  static Result<void> listen(Door& door, const IpAddress& loopback);
  const Door& door_of(const Packet& packet) const { return doors_[packet.ipv6 ? 1 : 0]; }
  void accept_at(const Door& door, std::span<const NameServer> servers, std::int64_t now_ms);
  // These return whether the connection goes on.
  static bool ask(Connection& connection, std::span<const NameServer> servers);
  static bool move(Connection& connection, bool server_ready, std::span<const NameServer> servers);
  static bool pass(int from, int to, Direction& direction);

  const bool ipv6_;
  std::array<Door, 2> doors_;  // IPv4, IPv6
  std::array<Connection, kConnections> connections_;
  std::vector<std::size_t> polled_;  // connections, two places in add_polls() each
  std::vector<std::byte> renamed_;
};

}  // namespace vmm::user_net
