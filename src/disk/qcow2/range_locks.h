// RangeLocks: ranges of clusters that one request at a time changes the mapping of.
//
//   const RangeLocks::Guard guard(locks, first, last);   // waits for who has any of them
#pragma once

#include <condition_variable>
#include <cstdint>
#include <list>
#include <mutex>

namespace vmm::disk::qcow2 {

class RangeLocks {
 public:
  class Guard {
   public:
    // Both included.
    Guard(RangeLocks& locks, std::uint64_t first, std::uint64_t last) : locks_(locks) {
      std::unique_lock lock(locks_.mutex_);
      locks_.changed_.wait(lock, [&] { return !locks_.overlaps(first, last); });
      range_ = locks_.held_.insert(locks_.held_.end(), {first, last});
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    ~Guard() {
      {
        std::lock_guard lock(locks_.mutex_);
        locks_.held_.erase(range_);
      }
      locks_.changed_.notify_all();
    }

   private:
    RangeLocks& locks_;
    std::list<std::pair<std::uint64_t, std::uint64_t>>::iterator range_;
  };

 private:
  bool overlaps(std::uint64_t first, std::uint64_t last) const {
    for (const auto& [begin, end] : held_) {
      if (first <= end && begin <= last) return true;
    }
    return false;
  }

  std::mutex mutex_;  // guards held_
  std::condition_variable changed_;
  std::list<std::pair<std::uint64_t, std::uint64_t>> held_;
};

}  // namespace vmm::disk::qcow2
