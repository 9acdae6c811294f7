#include "src/disk/token_bucket.h"

#include <gtest/gtest.h>

namespace vmm::disk {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const Clock::time_point kStart = Clock::time_point{} + seconds(1000);

TEST(TokenBucket, StartsFullAndRefillsAtItsRate) {
  TokenBucket bucket(100, 10, kStart);
  EXPECT_EQ(bucket.ready(kStart), kStart);
  bucket.take(10);
  const auto next = bucket.ready(kStart);
  EXPECT_GE(next, kStart + milliseconds(10));
  EXPECT_LT(next, kStart + milliseconds(11));
  EXPECT_EQ(bucket.ready(next), next);
  // Never above the capacity, however long the pause.
  const auto later = kStart + seconds(1'000'000);
  EXPECT_EQ(bucket.ready(later), later);
  bucket.take(10);
  EXPECT_GT(bucket.ready(later), later);
}

TEST(TokenBucket, DebtPostponesTheNext) {
  TokenBucket bucket(1000, 100, kStart);
  bucket.take(1100);
  const auto next = bucket.ready(kStart);
  EXPECT_GE(next, kStart + milliseconds(1001));
  EXPECT_LT(next, kStart + milliseconds(1002));
}

TEST(TokenBucket, TimeThatGoesBackIsIgnored) {
  TokenBucket bucket(10, 1, kStart);
  bucket.take(1);
  EXPECT_GT(bucket.ready(kStart - seconds(5)), kStart - seconds(5));
  EXPECT_EQ(bucket.ready(kStart + seconds(1)), kStart + seconds(1));
}

// What a client that always asks again at the time it was told gets through.
std::uint64_t admitted_in_ten_seconds(const RateLimits& limits, std::uint64_t bytes) {
  RateLimiter limiter(limits, kStart);
  std::uint64_t count = 0;
  for (auto now = kStart; now < kStart + seconds(10);) {
    const auto later = limiter.admit(bytes, now);
    if (later) {
      EXPECT_GT(*later, now);
      now = *later;
    } else {
      ++count;
    }
  }
  return count;
}

TEST(RateLimiter, UnlimitedByDefault) {
  RateLimiter limiter({}, kStart);
  EXPECT_FALSE(limiter.limits_anything());
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(limiter.admit(1u << 30, kStart));
}

TEST(RateLimiter, HoldsOperations) {
  RateLimits limits;
  limits.operations_per_second = 500;
  const auto count = admitted_in_ten_seconds(limits, 4096);
  EXPECT_GE(count, 5000u);
  EXPECT_LE(count, 5000u + 50u + 1u) << "a tenth of a second's worth at once";
}

TEST(RateLimiter, HoldsBytes) {
  RateLimits limits;
  limits.bytes_per_second = 1u << 20;
  const auto count = admitted_in_ten_seconds(limits, 4096);
  EXPECT_GE(count, 2560u);
  EXPECT_LE(count, 2560u + 26u);
  // Requests above the burst pass as well, at the same rate.
  EXPECT_NEAR(static_cast<double>(admitted_in_ten_seconds(limits, 4u << 20)), 3, 1);
}

TEST(RateLimiter, TheScarcerOfBothCounts) {
  RateLimits limits;
  limits.bytes_per_second = 100u << 20;
  limits.operations_per_second = 100;
  EXPECT_NEAR(static_cast<double>(admitted_in_ten_seconds(limits, 4096)), 1010, 2);
  EXPECT_NEAR(static_cast<double>(admitted_in_ten_seconds(limits, 10u << 20)), 101, 3);
}

TEST(RateLimiter, BurstPassesAtOnce) {
  RateLimits limits;
  limits.operations_per_second = 10;
  limits.burst_operations = 100;
  RateLimiter limiter(limits, kStart);
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(limiter.admit(512, kStart)) << i;
  EXPECT_TRUE(limiter.admit(512, kStart));
}

// A total is counted on from where it was restarted: what a disk copied before is not charged.
TEST(RateLimiter, ChargesWhatATotalGrewBy) {
  RateLimits limits;
  limits.bytes_per_second = 1000;
  limits.burst_bytes = 1000;
  RateLimiter limiter(limits, kStart);
  limiter.restart_total(5000);
  limiter.charge_total(5100);
  EXPECT_FALSE(limiter.admit(1, kStart)) << "900 are left";
  limiter.charge_total(5050);
  limiter.charge_total(7000);
  EXPECT_TRUE(limiter.admit(1, kStart));
}

}  // namespace
}  // namespace vmm::disk
