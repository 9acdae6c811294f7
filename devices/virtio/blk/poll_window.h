// PollWindow: how long a worker looks for the next request itself before it waits for a kick. A
// driver that answers quickly is then served without an exit of its vCPU and without a wake-up.
//
//   window.idle(now);                     // ran dry: look for window.length()
//   window.found(now) / window.missed(now)
//   window.busy(now);                     // work again, by a kick
//
// The window opens when requests come shortly after the worker ran dry and closes as soon as they
// do not. Looking in vain several times in a row (the vCPU may be waiting for this very processor)
// closes it for a while, each time for longer.
#pragma once

#include <algorithm>
#include <chrono>

namespace vmm::virtio::blk {

class PollWindow {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr auto kFirst = std::chrono::microseconds(8);
  static constexpr auto kLongest = std::chrono::microseconds(64);
  static constexpr int kMisses = 4;
  static constexpr auto kFirstPause = std::chrono::milliseconds(10);
  static constexpr auto kLongestPause = std::chrono::milliseconds(1000);

  Clock::duration length() const { return length_; }

  void idle(Clock::time_point now) { idle_since_ = now; }
  // Work again, by none of these: it says nothing.
  void forget() { idle_since_ = {}; }
  void found() {
    idle_since_ = {};
    misses_ = 0;
    pause_ = kFirstPause;
  }
  void missed(Clock::time_point now) {
    if (++misses_ < kMisses) return;
    misses_ = 0;
    length_ = {};
    closed_until_ = now + pause_;
    pause_ = std::min<Clock::duration>(pause_ * 2, kLongestPause);
  }
  void busy(Clock::time_point now) {
    if (idle_since_ == Clock::time_point{}) return;
    const auto gap = now - idle_since_;
    idle_since_ = {};
    if (gap > kLongest || now < closed_until_) {
      length_ = {};
    } else if (gap > length_) {
      length_ = std::min<Clock::duration>(std::max<Clock::duration>(length_ * 2, kFirst), kLongest);
    }
  }

 private:
  Clock::duration length_{};
  Clock::time_point idle_since_{};
  Clock::time_point closed_until_{};
  Clock::duration pause_ = kFirstPause;
  int misses_ = 0;
};

}  // namespace vmm::virtio::blk
