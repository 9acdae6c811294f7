// NetBackend: where a network device's frames go to and come from: a tap, or an Ethernet socket.
//
//   TRY(backend->start(negotiated_features));
//   const auto sent = backend->send(pair, frames);          // never blocks
//   const auto received = backend->receive(pair, buffers);  // neither
//   backend->stop();
//
// Every frame starts with a virtio_net_hdr_v1 (virtio 1.2, 5.1.6), so that checksums and
// segmentation are left to whoever does them best. No frame is copied on its way.
//
// start(), stop() and set_active_pairs() are called while no thread sends or receives on the pairs
// concerned; send() and receive() by one thread a pair, which waits with edge-triggered epoll on
// fd(pair).
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "src/base/result.h"

namespace vmm::net {

// The size of virtio_net_hdr_v1.
inline constexpr std::size_t kHeaderSize = 12;
// The largest frame: header, Ethernet header with a VLAN tag, an IP packet.
inline constexpr std::size_t kMaxFrame = kHeaderSize + 18 + 65535;
// Header and Ethernet header: nothing shorter is a frame.
inline constexpr std::size_t kMinFrame = kHeaderSize + 14;
// What readv(2) takes.
inline constexpr std::size_t kMaxBuffers = 1024;

enum class IoState : std::uint8_t {
  ready,    // may be called again at once
  blocked,  // wait for the descriptor
  closed,   // the other side is gone for good
};

struct SendResult {
  std::size_t done = 0;     // frames that are not needed any more, from the first on
  std::size_t refused = 0;  // of those, how many could not be sent
  IoState state = IoState::ready;
};

struct ReceiveResult {
  std::size_t size = 0;  // bytes of the one frame that was received, header included; 0: none
  IoState state = IoState::ready;
};

// A list of buffers that hold one frame, between kMinFrame and kMaxFrame bytes.
using Frame = std::span<const iovec>;

class NetBackend {
 public:
  virtual ~NetBackend() = default;

  virtual unsigned queue_pairs() const = 0;
  // The offloads it can do for a device: VIRTIO_NET_F_* bits of both directions.
  virtual std::uint64_t features() const = 0;
  // Serves a guest that negotiated `features`; frames that wait from before are dropped.
  // One pair is active then.
  virtual Result<void> start(std::uint64_t features) = 0;
  virtual void stop() = 0;
  // The guest turned some of its receive offloads off, or on again. Called by the thread of pair 0.
  virtual Result<void> set_offloads(std::uint64_t features) = 0;
  // Spreads what comes in over the first `pairs` pairs.
  virtual Result<void> set_active_pairs(unsigned pairs) = 0;

  virtual int fd(unsigned pair) const = 0;
  virtual SendResult send(unsigned pair, std::span<const Frame> frames) = 0;
  // `buffers` hold at least kMaxFrame bytes together.
  virtual ReceiveResult receive(unsigned pair, std::span<const iovec> buffers) = 0;
  // Whether the other side is gone for good, asked when fd(pair) said EPOLLERR or EPOLLHUP and
  // receive() says `blocked`.
  virtual bool is_gone(unsigned /*pair*/) const { return false; }
};

}  // namespace vmm::net
