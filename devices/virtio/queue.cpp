#include "devices/virtio/queue.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

namespace vmm::virtio {
namespace {

// Descriptor flags (virtio 1.2, 2.7.5).
constexpr std::uint16_t kNext = 1;
constexpr std::uint16_t kWrite = 2;
constexpr std::uint16_t kIndirect = 4;
// avail->flags and used->flags.
constexpr std::uint16_t kNoInterrupt = 1;
constexpr std::uint16_t kNoNotify = 1;

constexpr std::size_t kDescriptorSize = 16;
constexpr std::size_t kRingHeader = 4;  // flags and idx
constexpr std::size_t kIdx = 2;         // offset of idx in both rings
constexpr std::size_t kAvailEntry = 2;
constexpr std::size_t kUsedEntry = 8;

std::uint16_t* as_u16(std::byte* at) { return reinterpret_cast<std::uint16_t*>(at); }

void store_u16(std::byte* at, std::uint16_t value, std::memory_order order) {
  std::atomic_ref(*as_u16(at)).store(value, order);
}

// Whether moving an index from `before` to `after` passed `event` (2.7.10.1).
bool passed(std::uint16_t event, std::uint16_t after, std::uint16_t before) {
  return static_cast<std::uint16_t>(after - event - 1) < static_cast<std::uint16_t>(after - before);
}

}  // namespace

Result<Queue> Queue::create(const GuestMemory& memory, const QueueConfig& config,
                            std::uint64_t features) {
  if (config.size == 0 || config.size > kMaxQueueSize || !std::has_single_bit(config.size)) {
    return fail("queue size {} is not a power of two up to {}", config.size, kMaxQueueSize);
  }
  if (config.descriptors.value % 16 != 0 || config.avail.value % 2 != 0 ||
      config.used.value % 4 != 0) {
    return fail("queue rings at {:#x}, {:#x}, {:#x} are not aligned to 16, 2 and 4 bytes",
                config.descriptors.value, config.avail.value, config.used.value);
  }
  Queue queue(memory);
  queue.config_ = config;
  queue.event_idx_ = (features & kFeatureEventIdx) != 0;
  queue.indirect_ = (features & kFeatureIndirectDescriptors) != 0;
  // Two bytes more for used_event and avail_event.
  queue.descriptors_ = TRY(memory.slice(config.descriptors, config.size * kDescriptorSize)).data();
  queue.avail_ =
      TRY(memory.slice(config.avail, kRingHeader + config.size * kAvailEntry + 2)).data();
  queue.used_ = TRY(memory.slice(config.used, kRingHeader + config.size * kUsedEntry + 2)).data();
  return queue;
}

std::uint16_t Queue::load_avail(std::uint64_t offset) const {
  return std::atomic_ref(*as_u16(avail_ + offset)).load(std::memory_order_acquire);
}

std::uint16_t Queue::load_used(std::uint64_t offset) const {
  return std::atomic_ref(*as_u16(used_ + offset)).load(std::memory_order_acquire);
}

Result<std::uint16_t> Queue::available() const {
  const auto waiting = static_cast<std::uint16_t>(load_avail(kIdx) - next_avail_);
  if (waiting > config_.size) {
    return fail("the avail index is {} ahead in a queue of {}", waiting, config_.size);
  }
  return waiting;
}

Result<std::optional<Chain>> Queue::pop() {
  if (TRY(available()) == 0) return std::optional<Chain>();
  const std::uint16_t slot = next_avail_ & static_cast<std::uint16_t>(config_.size - 1);
  const std::uint16_t head = load_avail(kRingHeader + slot * kAvailEntry);
  if (head >= config_.size) {
    return fail("descriptor {} is outside of a queue of {}", head, config_.size);
  }
  Chain chain;
  if (!spare_.empty()) {
    chain.buffers_ = std::move(spare_.back());
    spare_.pop_back();
    chain.buffers_.clear();
  }
  chain.head_ = head;
  TRY(collect(chain, descriptors_, config_.size, head, false));
  ++next_avail_;
  ++in_flight_;
  return std::optional<Chain>(std::move(chain));
}

Result<void> Queue::collect(Chain& chain, const std::byte* table, std::uint32_t table_size,
                            std::uint32_t first, bool indirect) {
  std::uint32_t index = first;
  // A chain longer than its table has a loop in it.
  for (std::uint32_t steps = 0; steps < table_size; ++steps) {
    Descriptor descriptor;
    std::memcpy(&descriptor, table + index * kDescriptorSize, sizeof descriptor);
    if ((descriptor.flags & kIndirect) != 0) {
      if (!indirect_) return fail("an indirect descriptor without the feature negotiated");
      if (indirect) return fail("an indirect descriptor inside of an indirect table");
      if ((descriptor.flags & kNext) != 0) return fail("an indirect descriptor with a next one");
      if (descriptor.length == 0 || descriptor.length % kDescriptorSize != 0 ||
          descriptor.length / kDescriptorSize > kMaxChainLength) {
        return fail("an indirect table of {} bytes", descriptor.length);
      }
      const auto nested = TRY(memory_->slice(GuestAddress{descriptor.address}, descriptor.length));
      return collect(chain, nested.data(),
                     descriptor.length / static_cast<std::uint32_t>(kDescriptorSize), 0, true);
    }
    TRY(append(chain, descriptor));
    if ((descriptor.flags & kNext) == 0) return {};
    if (descriptor.next >= table_size) {
      return fail("descriptor {} is outside of a table of {}", descriptor.next, table_size);
    }
    index = descriptor.next;
  }
  return fail("a loop in the descriptor chain {}", chain.head_);
}

Result<void> Queue::append(Chain& chain, const Descriptor& descriptor) {
  if (chain.buffers_.size() >= kMaxChainLength) {
    return fail("a chain of more than {} descriptors", kMaxChainLength);
  }
  const bool writable = (descriptor.flags & kWrite) != 0;
  if (!writable && chain.buffers_.size() > chain.readable_count_) {
    return fail("a readable descriptor behind a writable one");
  }
  const GuestAddress address{descriptor.address};
  // Nobody writes to what is readable: iovec knows no constants.
  std::byte* host =
      writable ? memory_->host_pointer(address, descriptor.length)
               : const_cast<std::byte*>(memory_->source_pointer(address, descriptor.length));
  if (host == nullptr) {
    return fail("a buffer at {:#x}+{:#x} is outside of the guest's memory", descriptor.address,
                descriptor.length);
  }
  chain.buffers_.push_back({host, descriptor.length});
  if (writable) {
    chain.writable_size_ += descriptor.length;
  } else {
    ++chain.readable_count_;
    chain.readable_size_ += descriptor.length;
  }
  return {};
}

void Queue::unpop(Chain chain) {
  spare_.push_back(std::move(chain.buffers_));
  --next_avail_;
  --in_flight_;
}

void Queue::push(Chain chain, std::uint32_t written) {
  stage(std::move(chain), written);
  publish();
}

void Queue::stage(Chain chain, std::uint32_t written) {
  const std::uint16_t slot = next_used_ & static_cast<std::uint16_t>(config_.size - 1);
  std::byte* entry = used_ + kRingHeader + slot * kUsedEntry;
  const std::uint32_t id = chain.head_;
  std::memcpy(entry, &id, sizeof id);
  std::memcpy(entry + 4, &written, sizeof written);
  ++next_used_;
  --in_flight_;
  if (spare_.size() < config_.size) spare_.push_back(std::move(chain.buffers_));
}

void Queue::publish() { store_u16(used_ + kIdx, next_used_, std::memory_order_release); }

bool Queue::take_notification() {
  if (notified_used_ == next_used_) return false;
  const std::uint16_t before = std::exchange(notified_used_, next_used_);
  // The used index must be visible before used_event or flags are read.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (event_idx_) {
    return passed(load_avail(kRingHeader + config_.size * kAvailEntry), next_used_, before);
  }
  return (load_avail(0) & kNoInterrupt) == 0;
}

void Queue::disable_kicks() {
  // With EVENT_IDX a stale avail_event does the same: nothing to write.
  if (!event_idx_) store_u16(used_, kNoNotify, std::memory_order_relaxed);
}

bool Queue::enable_kicks() {
  if (event_idx_) {
    store_u16(used_ + kRingHeader + config_.size * kUsedEntry, next_avail_,
              std::memory_order_relaxed);
  } else {
    store_u16(used_, 0, std::memory_order_relaxed);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return load_avail(kIdx) != next_avail_;
}

std::uint16_t Queue::avail_index() const { return load_avail(kIdx); }

std::uint16_t Queue::ask_for_more() {
  const auto index = avail_index();
  if (event_idx_) {
    store_u16(used_ + kRingHeader + config_.size * kUsedEntry, index, std::memory_order_relaxed);
  } else {
    store_u16(used_, 0, std::memory_order_relaxed);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return index;
}

void Queue::set_position(std::uint16_t next_avail, std::uint16_t next_used) {
  next_avail_ = next_avail;
  next_used_ = next_used;
  notified_used_ = next_used;
}

namespace {

// Calls `copy(host pointer, length, position)` for each piece of [offset, offset + length).
template <typename Copy>
std::size_t for_each_piece(std::span<const iovec> buffers, std::size_t offset, std::size_t length,
                           Copy copy) {
  std::size_t done = 0;
  for (const auto& buffer : buffers) {
    if (done == length) break;
    if (offset >= buffer.iov_len) {
      offset -= buffer.iov_len;
      continue;
    }
    const std::size_t piece = std::min(buffer.iov_len - offset, length - done);
    copy(static_cast<std::byte*>(buffer.iov_base) + offset, piece, done);
    done += piece;
    offset = 0;
  }
  return done;
}

}  // namespace

std::size_t copy_from_buffers(std::span<const iovec> buffers, std::size_t offset,
                              std::span<std::byte> target) {
  return for_each_piece(buffers, offset, target.size(),
                        [target](const std::byte* host, std::size_t length, std::size_t at) {
                          std::memcpy(target.data() + at, host, length);
                        });
}

std::size_t copy_to_buffers(std::span<const iovec> buffers, std::size_t offset,
                            std::span<const std::byte> source) {
  return for_each_piece(buffers, offset, source.size(),
                        [source](std::byte* host, std::size_t length, std::size_t at) {
                          std::memcpy(host, source.data() + at, length);
                        });
}

std::uint64_t total_size(std::span<const iovec> buffers) {
  std::uint64_t total = 0;
  for (const auto& buffer : buffers) total += buffer.iov_len;
  return total;
}

}  // namespace vmm::virtio
