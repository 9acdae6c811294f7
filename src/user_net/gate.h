// Gate: which of a guest's frames the way out gets to see. libslirp opens a socket of the host for
// whatever address a packet names, so without it the host's loopback is a guest's to talk to.
//
//   switch (gate.judge(frame)) { ... }        // whole packets: fragments are put together before
//   gate.note_answerable(frame_for_guest);    // a published UDP port was reached
//
// Never passed: what no router forwards (127.0.0.0/8, 0.0.0.0/8, ::/96 with "::" and "::1",
// IPv4-mapped addresses, source routes), and protocols and IPv6 headers that libslirp ignores, so
// that nothing stands between the fixed header, which has the destination, and the ports.
// Passed on conditions: the gateway's address, which is the host's loopback
// (Config::host_loopback), and Config::denied. At the name server's address nothing but queries
// pass. Connections that came in by a published port are answered in any case.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "src/user_net/address.h"
#include "src/user_net/config.h"
#include "src/user_net/packet.h"

namespace vmm::user_net {

class Gate {
 public:
  enum class Verdict : std::uint8_t {
    pass,
    drop,
    refuse,  // a TCP connection that is to be refused by a reset: see refuse_connection()
  };

  explicit Gate(const Config& config);

  // From now on a UDP port is published: who comes by it may be answered.
  void publish_udp();
  // `frame`: of the guest, any bytes.
  Verdict judge(std::span<const std::byte> frame) const;
  // `frame`: on its way to the guest.
  void note_answerable(std::span<const std::byte> frame);
  // Makes a segment that was judged `refuse` one that libslirp answers by a reset and nothing else.
  static void refuse_connection(std::span<std::byte> frame);

 private:
  // Who may be answered from which of the guest's ports.
  struct Answerable {
    IpAddress peer;
    std::uint16_t peer_port = 0;
    std::uint16_t guest_port = 0;
    friend bool operator==(const Answerable&, const Answerable&) = default;
  };
  // A table of fixed size: a peer that was crowded out asks again.
  static constexpr std::size_t kAnswerable = 1024;

  static std::size_t slot(const Answerable& entry);
  static bool asks_names(const Packet& packet);
  bool permits(const Packet& packet, const IpAddress& peer) const;
  bool reaches_host(const IpAddress& peer) const;

  const IpAddress gateway_, dns_;
  const bool ipv6_, host_loopback_;
  const std::vector<IpNetwork> denied_;
  bool publishes_udp_ = false;
  std::vector<Answerable> answerable_;
};

}  // namespace vmm::user_net
