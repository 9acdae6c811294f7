#include "src/disk/token_bucket.h"

#include <algorithm>

namespace vmm::disk {

TokenBucket::TokenBucket(std::uint64_t rate, std::uint64_t capacity, Clock::time_point now)
    : rate_(static_cast<double>(rate)),
      capacity_(std::max(1.0, static_cast<double>(capacity))),
      tokens_(capacity_),
      last_(now) {}

Clock::time_point TokenBucket::ready(Clock::time_point now) {
  if (now > last_) {
    const double seconds = std::chrono::duration<double>(now - last_).count();
    tokens_ = std::min(capacity_, tokens_ + seconds * rate_);
    last_ = now;
  }
  if (tokens_ >= 1.0) return now;
  // Rounded up, so that whoever waits that long finds the token.
  const std::chrono::duration<double> wait((1.0 - tokens_) / rate_);
  return now + std::chrono::ceil<Clock::duration>(wait) + std::chrono::microseconds(1);
}

namespace {

std::optional<TokenBucket> bucket(std::uint64_t rate, std::uint64_t burst, Clock::time_point now) {
  if (rate == 0) return std::nullopt;
  return TokenBucket(rate, burst != 0 ? burst : rate / 10, now);
}

}  // namespace

RateLimiter::RateLimiter(const RateLimits& limits, Clock::time_point now)
    : bytes_(bucket(limits.bytes_per_second, limits.burst_bytes, now)),
      operations_(bucket(limits.operations_per_second, limits.burst_operations, now)) {}

std::optional<Clock::time_point> RateLimiter::admit(std::uint64_t bytes, Clock::time_point now) {
  if (!limits_anything()) return std::nullopt;
  std::lock_guard lock(mutex_);
  Clock::time_point when = now;
  if (bytes_) when = std::max(when, bytes_->ready(now));
  if (operations_) when = std::max(when, operations_->ready(now));
  if (when > now) return when;
  if (bytes_) bytes_->take(bytes);
  if (operations_) operations_->take(1);
  return std::nullopt;
}

void RateLimiter::charge_total(std::uint64_t total) {
  std::lock_guard lock(mutex_);
  if (total <= total_) return;  // another thread's count was newer
  if (bytes_) bytes_->take(total - total_);
  total_ = total;
}

void RateLimiter::restart_total(std::uint64_t total) {
  std::lock_guard lock(mutex_);
  total_ = total;
}

}  // namespace vmm::disk
