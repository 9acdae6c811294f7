// The Ethernet socket between a machine and its network process: a pair of SOCK_SEQPACKET sockets.
//
//   network -> machine   first of all: Hello, {result, text of the error}
//   both ways            frames: virtio_net_hdr_v1 and the Ethernet frame, one a message
//   machine -> network   Control, shorter than any frame
//
// Sequenced packets rather than a stream: one copy less to find the ends of frames, and the end of
// a process is seen, as it is not with datagrams.
// The machine's frames are a hostile guest's: the network process trusts no byte of them. The
// machine in turn takes from it nothing but sizes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmm::user_net {

inline constexpr std::size_t kHeaderSize = 12;
inline constexpr std::size_t kMinFrame = kHeaderSize + 14;
inline constexpr std::size_t kMaxFrame = kHeaderSize + 18 + 65535;

struct Hello {
  std::uint32_t magic = kMagic;
  std::uint32_t failed = 0;                            // not zero: a sentence follows
  static constexpr std::uint32_t kMagic = 0x314e4d56;  // "VMN1"
};

// What the guest negotiated: VIRTIO_NET_F_* bits. The machine sends it at every start and stop.
struct Control {
  std::uint32_t magic = Hello::kMagic;
  std::uint32_t active = 0;  // 0: no guest listens, frames for it are dropped
  std::uint64_t features = 0;
};
static_assert(sizeof(Control) < kMinFrame);

}  // namespace vmm::user_net
