// QueuePair: a receive and a transmit queue of a network device, served on one worker's loop.
//
// How it runs: kicks and the backend's descriptor are watched edge-triggered and only set flags;
// run() then moves batches both ways until neither side has more, and goes back to the loop now and
// then, so that a busy guest cannot keep it from being stopped. While it runs the driver need not
// kick, and interrupts are raised a batch at a time.
//
//   receive:  buffers of several chains -> one readv straight into them (mergeable buffers)
//   transmit: chains -> one sendmmsg, or a writev each
//
// When the backend is full, chains stay in the ring until it can be written again; when the guest
// has no buffers, frames stay in the backend.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "devices/backend/net/backend.h"
#include "devices/virtio/device.h"
#include "devices/virtio/served_queue.h"
#include "src/base/event_loop.h"
#include "src/base/mapping.h"

namespace vmm::virtio {

// Any thread may read them.
struct NetCounters {
  std::atomic<std::uint64_t> rx_packets{0}, rx_bytes{0}, rx_dropped{0};
  std::atomic<std::uint64_t> tx_packets{0}, tx_bytes{0}, tx_dropped{0};
};

// What the pairs of a device share.
struct PairContext {
  net::NetBackend* backend = nullptr;
  Interrupts* interrupts = nullptr;
  NetCounters* counters = nullptr;
  std::atomic<bool>* broken = nullptr;  // the device needs reset
  std::function<void()> link_lost;
  std::uint64_t features = 0;  // negotiated
  std::uint16_t mtu = virtio_net::kDefaultMtu;
};

class QueuePair : public std::enable_shared_from_this<QueuePair> {
 public:
  // `index`: of the pair; its queues are 2 * index and 2 * index + 1.
  QueuePair(unsigned index, PairContext context, ActiveQueue receive, ActiveQueue transmit);

  // On the loop's thread: starts to serve, stops.
  Result<void> attach(EventLoop& loop);
  void detach();
  // The backend was lost, and has a new descriptor.
  Result<void> regain_link();

  // After detach().
  Queue take_receive() { return std::move(rx_.queue); }
  Queue take_transmit() { return std::move(tx_.queue); }

 private:
  void backend_event(std::uint32_t events);
  void run();
  void drain();
  // True when there is more to do at once.
  bool transmit();
  Handled collect(Chain& chain);
  void send_batch();
  void return_batch(std::size_t from);
  bool receive();
  bool fill_receive();
  Handled hold(Chain& chain);
  net::ReceiveResult receive_frame();
  bool place(std::size_t size);
  void deliver(std::size_t size);
  void break_device(std::string_view reason);
  Result<void> watch_backend();
  void lose_link();
  void lose_link_if_over(net::IoState state);  // of a receive() that gave nothing
  void want_writable(bool wanted);
  std::uint16_t rx_index() const { return static_cast<std::uint16_t>(2 * index_); }
  std::uint16_t tx_index() const { return static_cast<std::uint16_t>(2 * index_ + 1); }

  const unsigned index_;
  const PairContext context_;
  const bool mergeable_;
  const std::size_t wanted_;  // bytes of receive buffers to have at hand
  ActiveQueue rx_;
  ActiveQueue tx_;
  EventLoop* loop_ = nullptr;  // null while detached
  bool posted_ = false;        // run() is due
  bool link_up_ = true;

  // Transmit.
  bool tx_kicked_ = true;    // the ring may hold chains
  bool tx_writable_ = true;  // the backend may take frames
  std::vector<Chain> batch_;
  std::vector<net::Frame> frames_;

  // Receive. Chains from first_ on are popped and not used; together they hold capacity_ bytes.
  bool rx_readable_ = true;  // the backend may have frames
  bool hung_up_ = false;     // its descriptor said so, and nobody has looked yet
  bool rx_starved_ = false;  // the ring has no more chains
  std::vector<Chain> chains_;
  std::size_t first_ = 0;
  std::size_t buffers_ = 0;
  bool crowded_ = false;  // no more buffers fit into one system call
  std::uint64_t capacity_ = 0;
  std::vector<iovec> vector_;
  Mapping spill_;                     // takes what is longer than the chains at hand
  std::size_t pending_ = 0;           // a frame of this size waits for chains,
  std::uint64_t pending_placed_ = 0;  // of which so much is in them; the rest is in spill_
};

}  // namespace vmm::virtio
