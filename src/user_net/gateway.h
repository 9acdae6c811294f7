// Gateway: the way out of a user-mode network: libslirp behind a Link. DHCP, DNS, NAT by ordinary
// sockets, published ports; needs no privilege.
//
//   Gateway gateway(config, link);
//   TRY(gateway.set_up());
//   gateway.run(process);   // until the machine is gone
#pragma once

#include <poll.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "src/base/result.h"
#include "src/user_net/config.h"
#include "src/user_net/fragments.h"
#include "src/user_net/gate.h"
#include "src/user_net/link.h"
#include "src/user_net/merger.h"
#include "src/user_net/name_connections.h"
#include "src/user_net/name_relay.h"
#include "src/user_net/offload.h"
#include "src/user_net/ports.h"

struct Slirp;

namespace vmm::user_net {

class Gateway {
 public:
  // `port_requests`: of the machine, for ports that are published meanwhile.
  Gateway(Config config, Link& link, UniqueFd port_requests);
  ~Gateway();
  Gateway(const Gateway&) = delete;

  Result<void> set_up();
  // `machine`: a pidfd of its process, or -1; its socket tells as well.
  void run(int machine);

 private:
  friend struct SlirpCallbacks;
  struct Timer;

  void widen_backlogs();
  void take_message(std::span<std::byte> message);
  void take_frame(std::span<std::byte> message);
  void take_control(std::span<const std::byte> message);
  void take_packet(std::span<std::byte> frame);
  void input(std::span<const std::byte> frame);
  void give_frame(std::span<const std::byte> frame);
  void give_merged();
  void give_fragments(std::span<const std::byte> frame);
  void fill_polls(std::uint32_t& timeout_ms);
  void run_timers();
  int add_poll(int fd, int events);
  int returned_events(int index) const;

  Config config_;
  Link& link_;
  Ports ports_;
  Fragments fragments_;
  Gate gate_;
  NameRelay names_;
  NameConnections name_connections_;
  const std::uint16_t largest_mss_;  // of libslirp's segments
  Slirp* slirp_ = nullptr;
  std::vector<std::unique_ptr<Timer>> timers_;
  int machine_ = -1;
  // The link first, then the machine, requests for ports, libslirp's, the queries' by UDP, those by
  // TCP.
  std::vector<pollfd> polls_;
  std::size_t name_polls_ = 0, connection_polls_ = 0;  // where those begin

  // What the guest negotiated.
  bool active_ = false;
  bool large_ipv4_ = false;
  bool large_ipv6_ = false;
  bool skips_checksums_ = false;
  SegmentSizes sizes_;
  Merger merger_;
  std::vector<std::byte> scratch_, cut_;  // on the way out, and in
};

}  // namespace vmm::user_net
