// Queue: the device's side of a split virtqueue (virtio 1.2, 2.7), and Chain, one request in it.
//
//   for (;;) {
//     auto chain = TRY(queue.pop());           // error: the guest broke the rules, needs reset
//     if (!chain) break;                       // nothing more
//     const auto written = serve(chain->readable(), chain->writable());
//     queue.push(std::move(*chain), written);  // give it back, `written` bytes were filled
//   }
//   if (queue.take_notification()) interrupts.queue_used(index);
//
// A chain is checked whole before it is handed out: every buffer lies inside of the guest's
// memory, readable ones come first, walks are bounded by the queue's size.
// A queue belongs to one thread at a time.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::virtio {

// Feature bits of rings (virtio 1.2, chapter 6).
inline constexpr std::uint64_t kFeatureIndirectDescriptors = 1ull << 28;
inline constexpr std::uint64_t kFeatureEventIdx = 1ull << 29;
inline constexpr std::uint64_t kFeatureVersion1 = 1ull << 32;

inline constexpr std::uint16_t kMaxQueueSize = 1024;
// The longest chain that is taken, indirect descriptors included.
inline constexpr std::uint32_t kMaxChainLength = 1024;

// What the driver wrote into the transport's registers.
struct QueueConfig {
  std::uint16_t size = 0;  // entries, a power of two up to kMaxQueueSize
  GuestAddress descriptors;
  GuestAddress avail;
  GuestAddress used;
};

// One request. Move-only; must go back by Queue::push before its queue ends.
class Chain {
 public:
  Chain(Chain&&) = default;
  Chain& operator=(Chain&&) = default;
  Chain(const Chain&) = delete;

  // Buffers in host memory, in the order of the chain. The guest may change their content at any
  // time: copy out what is decided on.
  std::span<const iovec> readable() const { return {buffers_.data(), readable_count_}; }
  std::span<const iovec> writable() const { return std::span(buffers_).subspan(readable_count_); }
  std::uint64_t readable_size() const { return readable_size_; }
  std::uint64_t writable_size() const { return writable_size_; }
  std::uint16_t head() const { return head_; }

 private:
  friend class Queue;
  Chain() = default;
  std::vector<iovec> buffers_;  // readable ones first
  std::size_t readable_count_ = 0;
  std::uint64_t readable_size_ = 0;
  std::uint64_t writable_size_ = 0;
  std::uint16_t head_ = 0;
};

class Queue {
 public:
  // `features`: those that were negotiated. Error: a ring is misaligned or outside of the memory.
  static Result<Queue> create(const GuestMemory& memory, const QueueConfig& config,
                              std::uint64_t features);

  // The next chain that the driver made available, nothing, or the rule that the guest broke.
  Result<std::optional<Chain>> pop();
  // The number of chains that wait; an error as for pop().
  Result<std::uint16_t> available() const;
  // Takes back the chain of the last pop() unserved: the next pop() returns it again.
  void unpop(Chain chain);
  // Returns a chain with `written` bytes filled in, in any order of pop().
  void push(Chain chain, std::uint32_t written);
  // The two halves of push(), for chains that the driver must see at once (a frame in several
  // receive buffers): stage each, then publish.
  void stage(Chain chain, std::uint32_t written);
  void publish();

  // Whether the driver wants an interrupt for what was pushed since the last call (2.7.7, 2.7.10).
  bool take_notification();
  // The number of chains pushed since that.
  std::uint16_t unnotified() const {
    return static_cast<std::uint16_t>(next_used_ - notified_used_);
  }

  // Asks the driver (not) to kick. enable_kicks() returns true when chains arrived meanwhile: the
  // caller must look again, as no kick will come for them.
  void disable_kicks();
  bool enable_kicks();
  // Asks for a kick when the driver adds to the chains that wait. Returns where its ring ends now.
  std::uint16_t ask_for_more();
  std::uint16_t avail_index() const;

  const QueueConfig& config() const { return config_; }
  std::uint16_t size() const { return config_.size; }
  // Ring positions, for vhost and for saving.
  std::uint16_t next_avail() const { return next_avail_; }
  std::uint16_t next_used() const { return next_used_; }
  void set_position(std::uint16_t next_avail, std::uint16_t next_used);
  // Chains popped and not pushed yet.
  std::uint32_t in_flight() const { return in_flight_; }

 private:
  struct Descriptor {
    std::uint64_t address;
    std::uint32_t length;
    std::uint16_t flags;
    std::uint16_t next;
  };

  explicit Queue(const GuestMemory& memory) : memory_(&memory) {}
  Result<void> collect(Chain& chain, const std::byte* table, std::uint32_t table_size,
                       std::uint32_t first, bool indirect);
  Result<void> append(Chain& chain, const Descriptor& descriptor);
  std::uint16_t load_avail(std::uint64_t offset) const;
  std::uint16_t load_used(std::uint64_t offset) const;

  const GuestMemory* memory_;
  QueueConfig config_;
  bool event_idx_ = false;
  bool indirect_ = false;
  // Host pointers of the rings; they stay valid as long as the memory does.
  std::byte* descriptors_ = nullptr;
  std::byte* avail_ = nullptr;
  std::byte* used_ = nullptr;
  std::uint16_t next_avail_ = 0;
  std::uint16_t next_used_ = 0;
  std::uint16_t notified_used_ = 0;  // next_used_ at the last take_notification()
  std::uint32_t in_flight_ = 0;
  std::vector<std::vector<iovec>> spare_;  // buffers of returned chains, to allocate nothing
};

// Copies between a list of buffers and bytes; return the number of bytes copied, which is less
// than asked for when the list is shorter. `offset` counts from the start of the list.
std::size_t copy_from_buffers(std::span<const iovec> buffers, std::size_t offset,
                              std::span<std::byte> target);
std::size_t copy_to_buffers(std::span<const iovec> buffers, std::size_t offset,
                            std::span<const std::byte> source);
std::uint64_t total_size(std::span<const iovec> buffers);

// Copies a structure out of the first readable bytes; nothing when the list is too short.
template <typename T>
std::optional<T> read_struct(std::span<const iovec> buffers, std::size_t offset = 0) {
  T value;
  const auto bytes = std::as_writable_bytes(std::span(&value, 1));
  if (copy_from_buffers(buffers, offset, bytes) != sizeof(T)) return std::nullopt;
  return value;
}

}  // namespace vmm::virtio
