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
// start(), stop(), set_active_pairs() and PortChange::make() are called while no thread sends or
// receives on the pairs concerned; send() and receive() by one thread a pair, which waits with
// edge-triggered epoll on fd(pair).
#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/user_net/config.h"
#include "src/user_net/virtio_net.h"

namespace vmm::net {

using virtio_net::kHeaderSize;
using virtio_net::kMaxFrame;
using virtio_net::kMinFrame;
// What readv(2) takes.
inline constexpr std::size_t kMaxBuffers = 1024;

enum class IoState : std::uint8_t {
  ready,    // may be called again at once
  blocked,  // wait for the descriptor
  closed,   // the other side is gone
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

// Which ports of the host reach the guest, as prepare_ports() prepared it.
class PortChange {
 public:
  virtual ~PortChange() = default;
  // Once. On an error they are as they were.
  virtual Result<void> make() = 0;
};

class NetBackend {
 public:
  virtual ~NetBackend() = default;

  // Waits for what was started with it and left to itself: the network's process.
  virtual Result<void> wait_ready() { return {}; }

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
  // Whether the other side is gone, asked when fd(pair) said EPOLLERR or EPOLLHUP and
  // receive() says `blocked`.
  virtual bool is_gone(unsigned /*pair*/) const { return false; }

  // A descriptor that the thread of pair 0 waits for beside fd(0), level-triggered, and what to do
  // when it can be read; -1: none.
  virtual int notice_fd() const { return -1; }
  virtual void take_notice() {}

  // Ports of the host that reach the guest, as they are written in options. By the thread that
  // makes changes of them.
  virtual std::vector<std::string> ports() const { return {}; }
  // These and no others. Opens those that are new, beside all else.
  virtual Result<std::unique_ptr<PortChange>> prepare_ports(
      const std::vector<user_net::HostForward>& /*wanted*/) {
    return fail("this network publishes no ports");
  }

  // After the other side went: how long to wait before reopen(); nothing when it is gone for good.
  virtual std::optional<std::chrono::milliseconds> retry_delay() { return std::nullopt; }
  // Sets it up anew, to be started by start(); fd(0) is another descriptor then. Only for backends
  // of one pair, by its thread, and bounded in time.
  virtual Result<void> reopen() { return fail("this network is gone for good"); }
};

}  // namespace vmm::net
