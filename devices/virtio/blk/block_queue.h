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

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/backend/disk/disk.h"
#include "devices/backend/disk/token_bucket.h"
#include "devices/virtio/blk/block_request.h"
#include "devices/virtio/blk/block_statistics.h"
#include "devices/virtio/blk/interrupt_moderation.h"
#include "devices/virtio/blk/poll_window.h"
#include "devices/virtio/device.h"
#include "src/base/log.h"

namespace vmm::virtio::blk {

// The most that one request may ask for.
inline constexpr std::uint64_t kMaxTransfer = 1ull << 30;          // bytes
inline constexpr std::uint32_t kMaxDiscardSectors = 1u << 22;      // 2 GiB
inline constexpr std::uint32_t kMaxWriteZeroesSectors = 1u << 19;  // 256 MiB
inline constexpr std::uint32_t kMaxSegments = 16;

// What the queues of a device share. Outlives them.
struct BlockShared {
  disk::Disk* disk;
  std::string serial;
  disk::RateLimiter limiter;
  Counters counters;
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
    int error = 0;
  };

  // How far serve_available() came.
  enum class Served : std::uint8_t { all, some, throttled, no_slot };
  Served serve_available();
  bool serve(Chain chain);
  bool is_throttled(const BlockRequest& request);
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
  std::uint64_t unnotified_bytes_ = 0;
  PollWindow window_;
  InterruptModeration moderation_;
  std::uint32_t arrived_ = 0;  // requests of this batch
  bool is_awaited_ = false;    // one is done that a driver sends nothing after (a flush)
  std::optional<std::uint64_t> look_timer_;
  std::optional<std::uint64_t> throttle_timer_;
  bool stalled_ = false;  // kicks stay off until something completes
  bool broken_ = false;   // the device needs reset
  bool stopped_ = false;
};

}  // namespace vmm::virtio::blk
