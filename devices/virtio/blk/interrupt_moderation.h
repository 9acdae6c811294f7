// InterruptModeration: how many completed requests share an interrupt.
//
//   moderation.arrived(1, now);                // taken out of the ring
//   if (moderation.may_wait(done, now)) {
//     look_again_at(moderation.next_look(done, now));
//   } else {
//     tell_the_driver();
//     moderation.told(done);
//   }
//
// Where the disk answers at once, a driver that keeps many requests in flight is interrupted for
// each of them, in the middle of making the next one. It sends these without an answer, so the
// interrupt may wait for them. Whether it does is learned: where two requests were found done
// together, the next interrupt waits for twice as many, up to kMost. A wait in vain ends after a
// few times the usual gap between two requests, and the number falls to what came, or by half. A
// driver that sends one request at a time never waits.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace vmm::virtio::blk {

class InterruptModeration {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::uint32_t kMost = 16;
  // Requests further apart say nothing about a driver's pace.
  static constexpr Clock::duration kLongestGap = std::chrono::milliseconds(2);
  // A wait is in vain when nothing came for so many usual times between two requests, or so long.
  static constexpr int kPatience = 4;
  static constexpr Clock::duration kLongestWait = std::chrono::milliseconds(4);
  // The interrupts between two tries for more of which the first was in vain; doubled by each.
  static constexpr std::uint32_t kFirstPause = 8;
  static constexpr std::uint32_t kLongestPause = 256;

  // `count` requests were taken out of the ring, at least one.
  void arrived(std::uint32_t count, Clock::time_point now) {
    const auto gap = (now - last_arrival_) / count;
    last_arrival_ = now;
    if (gap > kLongestGap) return;
    gap_ = gap_ == Clock::duration{} ? gap : gap_ + (gap - gap_) / 8;
  }

  // Whether the driver should not hear yet of `done` requests, after the last arrival.
  bool may_wait(std::uint32_t done, Clock::time_point now) const {
    return done < limit_ && now < last_arrival_ + bounded(kPatience * gap_);
  }
  // When half of what is waited for should be there: until then no kick is needed.
  Clock::time_point next_look(std::uint32_t done, Clock::time_point now) const {
    return now + bounded(gap_ * std::max(1u, (limit_ - std::min(done, limit_)) / 2));
  }

  // The driver was told of `done` requests.
  void told(std::uint32_t done) {
    if (left_ > 0) --left_;
    if (done < limit_) {
      if (limit_ > vouched_) {
        left_ = pause_;
        pause_ = std::min(pause_ * 2, kLongestPause);
      }
      // One late request is no change of the driver's ways.
      limit_ = std::max({done, vouched_ / 2, 1u});
      vouched_ = limit_;
      return;
    }
    if (limit_ > vouched_) {
      vouched_ = limit_;
      pause_ = kFirstPause;
    }
    if (done >= 2 && left_ == 0) limit_ = std::min(2 * done, kMost);
  }

 private:
  static Clock::duration bounded(Clock::duration wait) {
    return std::min<Clock::duration>(wait, kLongestWait);
  }

  Clock::time_point last_arrival_{};
  Clock::duration gap_{};
  std::uint32_t limit_ = 1;    // this many done are told at once
  std::uint32_t vouched_ = 1;  // the largest limit that was reached since it last fell
  std::uint32_t left_ = 0;     // interrupts until more are tried
  std::uint32_t pause_ = kFirstPause;
};

}  // namespace vmm::virtio::blk
