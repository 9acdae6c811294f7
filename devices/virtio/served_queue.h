// serve_chains(): the loop in which every device takes chains out of a queue; serve_turn(): that,
// with kicks off meanwhile; ServedQueue: a queue that needs nothing else, from its kicks to its
// interrupts.
//
//   ServedQueue queue(loop, 0, std::move(active), interrupts, kBudget, [](Chain& chain) {
//     const auto filled = fill_random(chain.writable());
//     return Handled::used(filled, /*cost=*/filled);
//   });
//   TRY(queue.start());           // serves what waits, and what comes
//   return queue.stop();
//
// What differs between devices is what stands around the loop: when a batch goes to the disk or the
// network, and when the driver hears of it (BlockQueue, QueuePair).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>

#include "devices/virtio/device.h"
#include "devices/virtio/queue.h"
#include "src/base/event_loop.h"
#include "src/base/result.h"

namespace vmm::virtio {

// What came of a chain.
struct Handled {
  enum class What : std::uint8_t {
    used,     // given back with `written` bytes
    kept,     // moved away by who handled it, and pushed later
    not_yet,  // back into its ring: nothing more can be done in this turn
    refused,  // back into its ring: the device needs reset, `why`
  };
  What what = What::used;
  std::uint32_t written = 0;
  std::size_t cost = 1;  // of the turn's budget
  std::string_view why = {};

  static Handled used(std::size_t written, std::size_t cost = 1) {
    return {.written = static_cast<std::uint32_t>(written), .cost = cost};
  }
  static Handled kept(std::size_t cost = 1) { return {.what = What::kept, .cost = cost}; }
  static Handled not_yet() { return {.what = What::not_yet}; }
  static Handled refused(std::string_view why) { return {.what = What::refused, .why = why}; }
};

// How a turn ended.
enum class Turn : std::uint8_t {
  empty,   // the ring; the driver kicks for what comes
  spent,   // the budget: others of the loop come first, then another turn
  waits,   // for what is not of this queue
  broken,  // by the rules: the reason went to `refuse`
};

// Chains go to `handle`, which returns a Handled, until their costs reach `budget`, the ring is
// empty, or `wanted()` says no. Where it is empty, `dry()` says whether to look again. Kicks and
// interrupts are the caller's: look_once_more(), queue.take_notification().
template <typename Wanted, typename Handle, typename Dry, typename Refuse>
Turn serve_chains(Queue& queue, std::size_t budget, Wanted wanted, Handle handle, Dry dry,
                  Refuse refuse) {
  std::size_t cost = 0;
  while (wanted()) {
    auto popped = queue.pop();
    if (!popped) {
      refuse(std::string_view(popped.error().message()));
      return Turn::broken;
    }
    if (!*popped) {
      if (!dry()) return Turn::empty;
      continue;
    }
    auto& chain = **popped;
    const Handled handled = handle(chain);
    switch (handled.what) {
      case Handled::What::used:
        queue.push(std::move(chain), handled.written);
        break;
      case Handled::What::kept:
        break;
      case Handled::What::not_yet:
        queue.unpop(std::move(chain));
        return Turn::waits;
      case Handled::What::refused:
        queue.unpop(std::move(chain));
        refuse(handled.why);
        return Turn::broken;
    }
    cost += handled.cost;
    if (cost >= budget) return Turn::spent;
  }
  return Turn::waits;
}

// Of an empty ring: whether chains came before the driver could know that it has to kick. Else it
// kicks for what comes.
inline bool look_once_more(Queue& queue) {
  if (!queue.enable_kicks()) return false;
  queue.disable_kicks();
  return true;
}

// serve_chains() during which the driver need not kick.
template <typename Wanted, typename Handle, typename Refuse>
Turn serve_turn(Queue& queue, std::size_t budget, Wanted wanted, Handle handle, Refuse refuse) {
  if (!wanted()) return Turn::waits;
  queue.disable_kicks();
  return serve_chains(
      queue, budget, wanted, handle, [&queue] { return look_once_more(queue); }, refuse);
}

// Calls `kicked` for the driver's kicks. They are never read: an edge each is all that is asked
// for, and it spares a system call.
template <typename Kicked>
Result<void> watch_kicks(EventLoop& loop, const EventFd& kick, Kicked kicked) {
  return loop.watch(kick.fd(), EPOLLIN | EPOLLET, [kicked](std::uint32_t) { kicked(); });
}

// On its loop's thread, all of it.
class ServedQueue {
 public:
  using Handle = std::function<Handled(Chain&)>;
  using Broken = std::function<void(std::string_view reason)>;

  // `interrupts` outlives it. `broken` is told once, in place of Interrupts::needs_reset, of a
  // driver that broke the rules; nothing is served any more then.
  ServedQueue(EventLoop& loop, std::uint16_t index, ActiveQueue queue, Interrupts& interrupts,
              std::size_t budget, Handle handle, Broken broken)
      : loop_(loop),
        index_(index),
        queue_(std::move(queue)),
        interrupts_(interrupts),
        budget_(budget),
        handle_(std::move(handle)),
        broken_handler_(std::move(broken)) {}
  ~ServedQueue() { forget(); }
  ServedQueue(const ServedQueue&) = delete;

  // Watches for kicks, and serves what waits: after a restore or a stop no kick comes for it.
  Result<void> start() {
    TRY(watch());
    serve();
    return {};
  }
  // The first half of start(), for who must know first that all its queues can be watched.
  Result<void> watch() {
    TRY(watch_kicks(loop_, *queue_.kick, [this] { serve(); }));
    watched_ = true;
    return {};
  }
  void serve() {
    if (broken_) return;
    const auto turn = serve_turn(
        queue_.queue, budget_, [] { return true; }, handle_,
        [this](std::string_view reason) { give_up(reason); });
    if (turn == Turn::broken) return;
    notify();
    if (turn == Turn::spent) queue_.kick->signal();  // to be back after the loop's other tasks
  }
  // Of chains that were pushed by others.
  void notify() {
    if (queue_.queue.take_notification()) interrupts_.queue_used(index_);
  }
  // Serves no more, as another queue of the device was broken.
  void give_up() { broken_ = true; }

  Queue& queue() { return queue_.queue; }
  Queue stop() {
    forget();
    return std::move(queue_.queue);
  }

 private:
  void give_up(std::string_view reason) {
    broken_ = true;
    broken_handler_(reason);
  }
  void forget() {
    if (std::exchange(watched_, false)) loop_.forget(queue_.kick->fd());
  }

  EventLoop& loop_;
  const std::uint16_t index_;
  ActiveQueue queue_;
  Interrupts& interrupts_;
  const std::size_t budget_;
  const Handle handle_;
  const Broken broken_handler_;
  bool watched_ = false;
  bool broken_ = false;
};

}  // namespace vmm::virtio
