// Rate limits by token buckets.
//
//   RateLimiter limiter(limits, now);
//   if (const auto later = limiter.admit(4096, now)) ... try again at *later
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>

#include "src/disk/disk_config.h"

namespace vmm::disk {

using Clock = std::chrono::steady_clock;

// Tokens come at a steady rate up to the capacity. A taker may go into debt once there is at least
// one token, so that an amount above the capacity passes too, and the next taker waits for it.
class TokenBucket {
 public:
  // `rate` in tokens a second, above zero.
  TokenBucket(std::uint64_t rate, std::uint64_t capacity, Clock::time_point now);

  // When there will be a token; in the past or `now` when there is one.
  Clock::time_point ready(Clock::time_point now);
  void take(std::uint64_t amount) { tokens_ -= static_cast<double>(amount); }

 private:
  double rate_;
  double capacity_;
  double tokens_;
  Clock::time_point last_;
};

// Bytes and operations together. Any thread.
class RateLimiter {
 public:
  RateLimiter(const RateLimits& limits, Clock::time_point now);

  bool limits_anything() const { return bytes_ || operations_; }
  // Lets one operation of `bytes` pass and returns nothing, or returns when to ask again.
  std::optional<Clock::time_point> admit(std::uint64_t bytes, Clock::time_point now);
  // Bytes that passed already, as a count that only grows: what it grew by since the last call is
  // taken, and who asks next waits for it.
  void charge_total(std::uint64_t total);
  // The count goes on from `total`, and nothing is taken.
  void restart_total(std::uint64_t total);

 private:
  std::mutex mutex_;  // guards all below
  std::uint64_t total_ = 0;
  std::optional<TokenBucket> bytes_;
  std::optional<TokenBucket> operations_;
};

}  // namespace vmm::disk
