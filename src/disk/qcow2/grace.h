// Grace: when a cluster that is no longer mapped is no longer used by a transfer that had looked it
// up before. Two generations of users are counted, as in RCU.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace vmm::disk::qcow2 {

class Grace {
 public:
  using Token = std::uint64_t;

  // With Image's lock held, before clusters are looked up.
  Token enter() {
    active_[epoch_ & 1].fetch_add(1, std::memory_order_relaxed);
    return epoch_;
  }
  // Any thread, after the last use of what was looked up.
  void leave(Token token) { active_[token & 1].fetch_sub(1, std::memory_order_release); }

  // With Image's lock held. What was unmapped in epoch() is unused two epochs later.
  std::uint64_t epoch() const { return epoch_; }
  void advance() {
    if (active_[(epoch_ + 1) & 1].load(std::memory_order_acquire) == 0) ++epoch_;
  }

 private:
  std::uint64_t epoch_ = 0;
  std::array<std::atomic<std::uint64_t>, 2> active_{};
};

}  // namespace vmm::disk::qcow2
