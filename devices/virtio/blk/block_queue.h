// BlockQueue: serves one queue of a block device on the thread that runs its loop.
//
//   kick -> drain(): pop, check, submit to the disk's channel, one commit a batch
//   disk -> finish_completed(): status byte, used ring; one notification a batch, or for several
//           (InterruptModeration)
//   dry  -> poll for a moment (PollWindow), then ask for kicks again; while there are completions
//           that the driver was not told of, look again by a timer
//
// What is wrong with a request goes into its status byte. A chain that has no room for one, or
// that the queue refuses, ends the service until the driver resets the device.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/virtio/blk/block_request.h"
#include "devices/virtio/blk/block_statistics.h"
#include "devices/virtio/blk/interrupt_moderation.h"
#include "devices/virtio/blk/poll_window.h"
#include "devices/virtio/device.h"
#include "devices/virtio/served_queue.h"
#include "src/base/log.h"
#include "src/disk/disk.h"
#include "src/disk/token_bucket.h"

namespace vmm::virtio::blk {

// The most that one request may ask for.
inline constexpr std::uint64_t kMaxTransfer = 1ull << 30;          // bytes
inline constexpr std::uint32_t kMaxDiscardSectors = 1u << 22;      // 2 GiB
inline constexpr std::uint32_t kMaxWriteZeroesSectors = 1u << 19;  // 256 MiB
inline constexpr std::uint32_t kMaxSegments = 16;
// Of the requests of a queue that the disk works on; one that asks for more goes alone. What pause,
// save and stop wait for: two thirds of a second of a disk of 100 MB/s, and still twice what
// 32 requests of 1 MiB need.
inline constexpr std::uint64_t kMaxInFlight = 64u << 20;  // bytes

// Which failures of a disk get a line in the log: the first ten, then each one that doubles their
// number. A guest that goes on at a full disk does not fill the log with the same line.
class FailureLog {
 public:
  // The number of failures with this one, when it gets a line.
  std::optional<std::uint64_t> note() {
    const std::uint64_t count = count_.fetch_add(1, std::memory_order_relaxed) + 1;
    if (count <= 10 || std::has_single_bit(count)) return count;
    return std::nullopt;
  }
  // Of another disk.
  void restart() { count_ = 0; }

 private:
  std::atomic<std::uint64_t> count_{0};
};

// What the queues of a device share. Outlives them.
struct BlockShared {
  disk::Disk* disk;
  std::string serial;
  disk::RateLimiter limiter;
  Counters counters;
  FailureLog failures;
  log::RateLimit log_limit{10};
};

class BlockQueue {
 public:
  BlockQueue(BlockShared& shared, EventLoop& loop, std::uint16_t index, ActiveQueue queue,
             std::uint64_t features, Interrupts& interrupts);

  // These three on the loop's thread, or while no thread runs the loop.
  void start();
  // Waits for requests in flight. No interrupt is raised afterwards.
  Queue stop();
  // Serves what waits in the queue.
  void drain();

 private:
  struct Slot {
    std::optional<Chain> chain;
    RequestScratch scratch;
    std::byte* status = nullptr;
    std::uint32_t type = 0;
    std::uint32_t data_written = 0;  // bytes filled in when it succeeds
    std::uint32_t operations = 0;    // of the disk, in flight
    std::uint64_t bytes = 0;         // of these
    int error = 0;
  };

  // What the next request waits for: a completion that frees a slot or makes room, or its time.
  enum class Blocked : std::uint8_t { no, slot, room, limit };
  Turn serve_available();
  Handled serve(Chain& chain);
  Blocked may_start(std::uint64_t bytes);
  std::uint64_t size_of(const BlockRequest& request);
  bool is_throttled(std::uint64_t bytes);
  std::optional<Status> start_request(Slot& slot, std::uint32_t tag, const BlockRequest& request);
  Status start_transfer(Slot& slot, std::uint32_t tag, const BlockRequest& request);
  Status start_flush(Slot& slot, std::uint32_t tag);
  Status start_segments(Slot& slot, std::uint32_t tag, const BlockRequest& request);
  Status get_id(Slot& slot, const BlockRequest& request) const;
  bool is_in_range(std::uint64_t sector, std::uint64_t length) const;

  void finish_completed();
  void finish(std::uint32_t tag, Status status);
  void notify();
  bool may_wait(InterruptModeration::Clock::time_point now) const;
  void look_again();
  bool poll_for_work();
  void on_ready();
  void give_up(std::string_view reason);
  std::uint32_t take_slot();

  BlockShared& shared_;
  EventLoop& loop_;
  const std::uint16_t index_;
  Queue queue_;
  const EventFd* kick_;
  const std::uint64_t features_;
  Interrupts& interrupts_;
  std::unique_ptr<disk::Channel> channel_;

  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::uint64_t bytes_in_flight_ = 0;
  // What the request that is being started has of them.
  std::array<Segment, kMaxSegments> segments_;
  std::uint64_t segment_count_ = 0;
  std::uint64_t unnotified_bytes_ = 0;
  PollWindow window_;
  InterruptModeration moderation_;
  std::uint32_t arrived_ = 0;  // requests of this batch
  bool is_awaited_ = false;    // one is done that a driver sends nothing after (a flush)
  std::optional<std::uint64_t> look_timer_;
  std::optional<std::uint64_t> throttle_timer_;
  Blocked blocked_ = Blocked::no;  // kicks stay off until it is over
  bool broken_ = false;            // the device needs reset
  bool stopped_ = false;
};

}  // namespace vmm::virtio::blk
