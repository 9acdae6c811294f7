// NameRelay: the name server's address of a network. Queries by UDP go to the host's name servers,
// of either family, each by a socket of its own, and the answers back. (libslirp would read
// /etc/resolv.conf for it, and knows a server of the guest's own family only.)
//
//   if (relay.take(frame, now_ms)) return;   // it was a query
//   relay.add_polls(polls);  poll(...);  relay.run(polls);
//
// By TCP, where answers are long: NameConnections.
#pragma once

#include <poll.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "src/base/unique_fd.h"
#include "src/user_net/config.h"
#include "src/user_net/packet.h"

namespace vmm::user_net {

class NameRelay {
 public:
  using Give = std::function<void(std::span<const std::byte> frame)>;
  static constexpr std::size_t kQueries = 128;  // at once; the oldest gives way
  static constexpr std::int64_t kPatienceMs = 10'000;

  static constexpr std::size_t kServers = 3;  // as resolv.conf(5) has it

  // `give` takes frames for the guest.
  NameRelay(const Config& config, Give give);

  // None yet at first.
  void clear_servers() { servers_.clear(); }
  void add_server(const NameServer& server);
  std::span<const NameServer> servers() const { return servers_; }

  bool take(std::span<const std::byte> frame, const Packet& packet, std::int64_t now_ms);
  void add_polls(std::vector<pollfd>& polls, std::int64_t now_ms);
  // What add_polls() added, with its events.
  void run(std::span<const pollfd> polls);

 private:
  static constexpr std::size_t kMostBytes = 65535 - kUdpHeader - 20;
  static constexpr std::size_t kMostOfQuery = 4096;

  struct Query {
    UniqueFd socket;  // connected: nobody but the server answers
    std::int64_t since_ms = 0;
    std::size_t server = 0;
    std::size_t tries = 0;
    std::vector<std::byte> frame;  // the guest's
    std::size_t payload = 0;       // where it begins in frame
  };

  bool is_own(const IpAddress& address) const;
  Query& place_for(std::span<const std::byte> frame, std::size_t payload, std::int64_t now_ms);
  void ask(Query& query);
  void read_answer(Query& query);
  void answer(const Query& query, std::span<const std::byte> payload);
  void refuse(const Query& query);

  const IpAddress dns_;
  const bool ipv6_;
  const Give give_;
  std::vector<NameServer> servers_;
  std::array<Query, kQueries> queries_;
  std::vector<std::byte> buffer_, reply_;
  std::vector<std::size_t> polled_;  // queries, by place in add_polls()
};

}  // namespace vmm::user_net
