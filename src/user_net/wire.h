// The Ethernet socket between a machine and its network process: a pair of SOCK_SEQPACKET sockets.
//
//   network -> machine   first of all: Hello, {result, text of the error or for the log}
//   both ways            frames: virtio_net_hdr_v1 and the Ethernet frame, one a message
//   machine -> network   Control and NameServerMessage, shorter than any frame
//
// A second pair of such sockets is for ports that are published while the network runs: the machine
// sends a PortMessage, with the socket that listens there by SCM_RIGHTS, and the network answers
// with a Hello.
//
// Sequenced packets rather than a stream: one copy less to find the ends of frames, and the end of
// a process is seen, as it is not with datagrams.
// The machine's frames are a hostile guest's: the network process trusts no byte of them. The
// machine in turn takes from it nothing but sizes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "src/user_net/virtio_net.h"

namespace vmm::user_net {

using virtio_net::kHeaderSize;
using virtio_net::kMaxFrame;
using virtio_net::kMinFrame;

struct Hello {
  std::uint32_t magic = kMagic;
  // Not zero: a sentence that says why follows. Else one for the log may.
  std::uint32_t failed = 0;
  static constexpr std::uint32_t kMagic = 0x314e4d56;  // "VMN1"
};

// What the guest negotiated: VIRTIO_NET_F_* bits. The machine sends it at every start and stop.
struct Control {
  std::uint32_t magic = Hello::kMagic;
  std::uint32_t active = 0;  // 0: no guest listens, frames for it are dropped
  std::uint64_t features = 0;
};
static_assert(sizeof(Control) < kMinFrame);

// One of the host's name servers: IPv4 as IPv4-mapped addresses. The network process reads no
// files.
struct NameServerMessage {
  std::uint16_t magic = kMagic;
  std::uint16_t index = 0;  // 0 begins the list anew, and is none when the address is "::"
  std::array<std::uint8_t, 16> address{};
  std::uint32_t scope = 0;
  static constexpr std::uint16_t kMagic = 0x534e;
};
static_assert(sizeof(NameServerMessage) < kMinFrame);
static_assert(sizeof(NameServerMessage) != sizeof(Control));

// One port of the host.
struct PortMessage {
  std::uint32_t magic = Hello::kMagic;
  std::uint16_t publish = 1;  // 0: no longer; no socket comes with it
  std::uint16_t udp = 0;
  std::uint16_t host_port = 0, guest_port = 0;
  std::array<std::uint8_t, 16> host{}, guest{};  // as of HostForward
};

}  // namespace vmm::user_net
