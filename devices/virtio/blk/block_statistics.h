// What a block device has done, for status and metrics.
#pragma once

#include <atomic>
#include <cstdint>

namespace vmm::virtio {

struct BlockStatistics {
  std::uint64_t reads = 0;
  std::uint64_t writes = 0;
  std::uint64_t flushes = 0;
  std::uint64_t discards = 0;
  std::uint64_t write_zeroes = 0;
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
  std::uint64_t errors = 0;     // requests refused or failed
  std::uint64_t throttled = 0;  // times that a queue waited for the rate limit
};

namespace blk {

// The same, counted by several queues at once.
struct Counters {
  using Counter = std::atomic<std::uint64_t>;
  Counter reads, writes, flushes, discards, write_zeroes, bytes_read, bytes_written, errors,
      throttled;

  static void add(Counter& counter, std::uint64_t amount = 1) {
    counter.fetch_add(amount, std::memory_order_relaxed);
  }
  BlockStatistics snapshot() const;
};

}  // namespace blk
}  // namespace vmm::virtio
