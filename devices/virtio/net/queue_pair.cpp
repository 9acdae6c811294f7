#include "devices/virtio/net/queue_pair.h"

#include <algorithm>
#include <cstring>

#include "src/user_net/virtio_net.h"

namespace vmm::virtio {
namespace {

constexpr std::size_t kTransmitBatch = 64;
constexpr int kReceiveBatch = 64;
// Batches until the loop gets its turn.
constexpr int kRounds = 16;
constexpr std::size_t kNumBuffersOffset = offsetof(virtio_net::Header, num_buffers);

void count(std::atomic<std::uint64_t>& counter, std::uint64_t by) {
  counter.fetch_add(by, std::memory_order_relaxed);
}

std::size_t wanted_bytes(const PairContext& context) {
  const auto large = virtio_net::kGuestTso4 | virtio_net::kGuestTso6;
  if ((context.features & large) != 0) return net::kMaxFrame;
  return net::kHeaderSize + virtio_net::kLinkHeader +
         std::max(context.mtu, virtio_net::kDefaultMtu);
}

}  // namespace

QueuePair::QueuePair(unsigned index, PairContext context, ActiveQueue receive, ActiveQueue transmit)
    : index_(index),
      context_(std::move(context)),
      mergeable_((context_.features & virtio_net::kMrgRxbuf) != 0),
      wanted_(wanted_bytes(context_)),
      rx_(std::move(receive)),
      tx_(std::move(transmit)) {}

Result<void> QueuePair::attach(EventLoop& loop) {
  spill_ = TRY(Mapping::create(net::kMaxFrame, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE));
  TRY(watch_kicks(loop, *rx_.kick, [this] {
    rx_starved_ = false;
    run();
  }));
  TRY(watch_kicks(loop, *tx_.kick, [this] {
    tx_kicked_ = true;
    run();
  }));
  loop_ = &loop;
  TRY(watch_backend());
  run();
  return {};
}

Result<void> QueuePair::watch_backend() {
  return loop_->watch(context_.backend->fd(index_), EPOLLIN | EPOLLET,
                      [this](std::uint32_t events) { backend_event(events); });
}

Result<void> QueuePair::regain_link() {
  if (loop_ == nullptr || link_up_) return {};
  TRY(watch_backend());
  link_up_ = rx_readable_ = true;
  hung_up_ = false;
  run();
  return {};
}

void QueuePair::detach() {
  if (loop_ == nullptr) return;
  loop_->forget(rx_.kick->fd());
  loop_->forget(tx_.kick->fd());
  if (link_up_) loop_->forget(context_.backend->fd(index_));
  loop_ = nullptr;
  // A frame that waits for chains is lost, as on any network.
  while (chains_.size() > first_) {
    rx_.queue.unpop(std::move(chains_.back()));
    chains_.pop_back();
  }
  chains_.clear();
}

void QueuePair::backend_event(std::uint32_t events) {
  if ((events & ~std::uint32_t{EPOLLOUT}) != 0) rx_readable_ = true;
  if ((events & EPOLLOUT) != 0 && !tx_writable_) {
    tx_writable_ = true;
    want_writable(false);
  }
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
    hung_up_ = true;
    if (rx_starved_) drain();  // the end of the other side must not wait for buffers
  }
  run();
}

void QueuePair::drain() {
  const iovec rest{spill_.data(), spill_.size()};
  while (link_up_) {
    const auto received = context_.backend->receive(index_, {&rest, 1});
    if (received.size == 0) return lose_link_if_over(received.state);
    count(context_.counters->rx_dropped, 1);
  }
}

void QueuePair::run() {
  posted_ = false;
  for (int round = 0; round < kRounds; ++round) {
    if (loop_ == nullptr || context_.broken->load(std::memory_order_relaxed)) return;
    bool more = transmit();
    more = receive() || more;
    if (!more) return;
  }
  if (std::exchange(posted_, true)) return;
  loop_->post([weak = weak_from_this()] {
    if (const auto self = weak.lock(); self && self->posted_) self->run();
  });
}

void QueuePair::break_device(std::string_view reason) {
  if (!context_.broken->exchange(true)) context_.interrupts->needs_reset(reason);
}

void QueuePair::lose_link_if_over(net::IoState state) {
  const bool asked = std::exchange(hung_up_, false) && state == net::IoState::blocked;
  if (state == net::IoState::closed || (asked && context_.backend->is_gone(index_))) lose_link();
}

void QueuePair::lose_link() {
  if (!std::exchange(link_up_, false)) return;
  loop_->forget(context_.backend->fd(index_));
  rx_readable_ = false;
  tx_writable_ = true;  // into the void
  context_.link_lost();
}

void QueuePair::want_writable(bool wanted) {
  const std::uint32_t events = wanted ? EPOLLIN | EPOLLOUT | EPOLLET : EPOLLIN | EPOLLET;
  // Fails for a descriptor that is not watched only, and this one is while the link is up.
  if (link_up_) (void)loop_->modify(context_.backend->fd(index_), events);
}

bool QueuePair::transmit() {
  if (!tx_kicked_ || !tx_writable_) return false;
  batch_.clear();
  tx_.queue.disable_kicks();
  const auto turn = serve_chains(
      tx_.queue, kTransmitBatch, [] { return true; },
      [this](Chain& chain) { return collect(chain); },
      [this] {
        if (!batch_.empty()) return false;  // first they are sent
        tx_kicked_ = look_once_more(tx_.queue);
        return tx_kicked_;
      },
      [this](std::string_view reason) { break_device(reason); });
  if (turn == Turn::broken) {
    return_batch(0);
    return false;
  }
  if (!batch_.empty()) send_batch();
  if (tx_.queue.take_notification()) context_.interrupts->queue_used(tx_index());
  return tx_kicked_ && tx_writable_;
}

Handled QueuePair::collect(Chain& chain) {
  if (!chain.writable().empty() || chain.readable_size() < net::kHeaderSize) {
    return Handled::refused("a transmit chain that is no frame");
  }
  const auto size = chain.readable_size();
  if (size < net::kMinFrame || size > net::kMaxFrame) {
    // Chains are given back to the ring in order, so nothing may be popped behind it.
    if (!batch_.empty()) return Handled::not_yet();
    count(context_.counters->tx_dropped, 1);
    return Handled::used(0);
  }
  batch_.push_back(std::move(chain));
  return Handled::kept();
}

void QueuePair::send_batch() {
  frames_.clear();
  for (const auto& chain : batch_) frames_.push_back(chain.readable());
  const net::SendResult all_dropped{batch_.size(), batch_.size(), net::IoState::ready};
  auto sent = link_up_ ? context_.backend->send(index_, frames_) : all_dropped;
  if (sent.state == net::IoState::closed) {
    lose_link();
    sent = all_dropped;
  }
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < sent.done; ++i) {
    bytes += batch_[i].readable_size() - net::kHeaderSize;
    tx_.queue.stage(std::move(batch_[i]), 0);
  }
  count(context_.counters->tx_packets, sent.done - sent.refused);
  count(context_.counters->tx_dropped, sent.refused);
  if (sent.refused == 0) count(context_.counters->tx_bytes, bytes);
  if (sent.state == net::IoState::blocked) {
    tx_writable_ = false;
    want_writable(true);
  }
  tx_.queue.publish();
  return_batch(sent.done);
}

// Into the ring, what was not sent.
void QueuePair::return_batch(std::size_t from) {
  for (std::size_t i = batch_.size(); i > from; --i) tx_.queue.unpop(std::move(batch_[i - 1]));
}

// Pops chains until a frame of any size fits, or the ring is empty; false when the guest broke the
// rules.
bool QueuePair::fill_receive() {
  const std::size_t wanted = std::max(wanted_, pending_);
  crowded_ = false;
  const auto turn = serve_chains(
      rx_.queue, kMaxQueueSize,
      [&] { return mergeable_ ? capacity_ < wanted : chains_.size() == first_; },
      [this](Chain& chain) { return hold(chain); },
      [this] {
        // Kicks are of interest only when there is nothing to go on with.
        if (chains_.size() > first_ && pending_ == 0) return false;
        rx_starved_ = !look_once_more(rx_.queue);
        return !rx_starved_;
      },
      [this](std::string_view reason) { break_device(reason); });
  return turn != Turn::broken;
}

Handled QueuePair::hold(Chain& chain) {
  const std::size_t buffers = chain.writable().size();
  const bool no_room = buffers >= net::kMaxBuffers;  // one is for spill_
  if (!chain.readable().empty() || chain.writable_size() < net::kHeaderSize || no_room) {
    return Handled::refused("a receive chain that holds no frame");
  }
  crowded_ = buffers_ + buffers >= net::kMaxBuffers;
  if (crowded_) return Handled::not_yet();
  buffers_ += buffers;
  capacity_ += chain.writable_size();
  chains_.push_back(std::move(chain));
  return Handled::kept();
}

net::ReceiveResult QueuePair::receive_frame() {
  vector_.clear();
  for (std::size_t i = first_; i < chains_.size(); ++i) {
    const auto buffers = chains_[i].writable();
    vector_.insert(vector_.end(), buffers.begin(), buffers.end());
  }
  vector_.push_back({spill_.data(), spill_.size()});
  return context_.backend->receive(index_, vector_);
}

bool QueuePair::receive() {
  if (!link_up_ || rx_starved_) return false;
  if (!rx_readable_ && pending_ == 0) return false;
  bool more = true;
  for (int i = 0; i < kReceiveBatch; ++i) {
    rx_starved_ = false;
    if (!fill_receive()) return false;
    if (pending_ != 0) {
      if (place(pending_)) continue;
      more = false;
      break;
    }
    if (chains_.size() == first_) {
      more = false;
      break;
    }
    const auto received = receive_frame();
    if (received.size == 0) {
      rx_readable_ = false;
      lose_link_if_over(received.state);
      more = false;
      break;
    }
    pending_placed_ = std::min<std::uint64_t>(received.size, capacity_);
    (void)place(received.size);  // what does not fit waits in pending_
  }
  if (rx_.queue.take_notification()) context_.interrupts->queue_used(rx_index());
  return more;
}

// Delivers a frame whose first part is in the chains, as soon as there are enough of them.
bool QueuePair::place(std::size_t size) {
  pending_ = 0;
  if (size <= capacity_) {
    const std::span spilled = spill_.bytes().first(size - pending_placed_);
    if (!spilled.empty()) {
      std::uint64_t skip = pending_placed_;
      std::size_t copied = 0;
      for (std::size_t i = first_; i < chains_.size() && copied < spilled.size(); ++i) {
        const std::uint64_t room = chains_[i].writable_size();
        if (skip < room) {
          copied += copy_to_buffers(chains_[i].writable(), skip, spilled.subspan(copied));
          skip = 0;
        } else {
          skip -= room;
        }
      }
    }
    deliver(size);
    return true;
  }
  // Without mergeable buffers a frame must fit into one chain. With them, a driver that has given
  // all it has, or buffers of a few bytes, cannot give more.
  if (!mergeable_ || crowded_ || rx_.queue.in_flight() >= rx_.queue.size()) {
    count(context_.counters->rx_dropped, 1);
    return true;
  }
  pending_ = size;
  return false;
}

void QueuePair::deliver(std::size_t size) {
  std::size_t end = first_;
  for (std::uint64_t room = 0; room < size; ++end) room += chains_[end].writable_size();
  // Always set: without mergeable buffers it is 1 (5.1.6.4.1).
  const auto buffers = static_cast<std::uint16_t>(end - first_);
  (void)copy_to_buffers(chains_[first_].writable(), kNumBuffersOffset,
                        std::as_bytes(std::span(&buffers, 1)));
  std::uint64_t left = size;
  for (; first_ < end; ++first_) {
    auto& chain = chains_[first_];
    const auto written = std::min(left, chain.writable_size());
    left -= written;
    capacity_ -= chain.writable_size();
    buffers_ -= chain.writable().size();
    rx_.queue.stage(std::move(chain), static_cast<std::uint32_t>(written));
  }
  // Before the guest can see the frame: whoever answers it may read the counters.
  count(context_.counters->rx_packets, 1);
  count(context_.counters->rx_bytes, size - net::kHeaderSize);
  // At once: a driver that sees only some of a frame's buffers drops it.
  rx_.queue.publish();
  if (first_ == chains_.size() || first_ >= kMaxQueueSize) {
    chains_.erase(chains_.begin(), chains_.begin() + static_cast<std::ptrdiff_t>(first_));
    first_ = 0;
  }
}

}  // namespace vmm::virtio
