#include "devices/virtio/blk/block_queue.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace vmm::virtio::blk {
namespace {

// A notification is not held back for longer than the copying of this much.
constexpr std::uint64_t kNotifyBytes = 64u << 10;
// A batch goes to the disk at the latest after this many chains, or one this long.
constexpr std::uint32_t kMaxBatch = 128;
constexpr std::uint64_t kLongCopy = 1u << 20;
// How long one call of drain() may go on before the loop sees to its other tasks.
constexpr auto kLongestDrain = std::chrono::milliseconds(2);

constexpr std::uint64_t kSectorSize = disk::kSectorSize;

const char* type_name(std::uint32_t type) {
  switch (type) {
    case kTypeIn:
      return "read";
    case kTypeOut:
      return "write";
    case kTypeFlush:
      return "flush";
    case kTypeDiscard:
      return "discard";
    case kTypeWriteZeroes:
      return "write-zeroes";
    default:
      return "request";
  }
}

}  // namespace

BlockStatistics Counters::snapshot() const {
  constexpr auto relaxed = std::memory_order_relaxed;
  return {reads.load(relaxed),         writes.load(relaxed),       flushes.load(relaxed),
          discards.load(relaxed),      write_zeroes.load(relaxed), bytes_read.load(relaxed),
          bytes_written.load(relaxed), errors.load(relaxed),       throttled.load(relaxed)};
}

BlockQueue::BlockQueue(BlockShared& shared, EventLoop& loop, std::uint16_t index, ActiveQueue queue,
                       std::uint64_t features, Interrupts& interrupts)
    : shared_(shared),
      loop_(loop),
      index_(index),
      queue_(std::move(queue.queue)),
      kick_(queue.kick),
      features_(features),
      interrupts_(interrupts) {}

void BlockQueue::start() {
  channel_ = shared_.disk->open_channel(loop_, [this] { on_ready(); });
  if (const auto watched = watch_kicks(loop_, *kick_, [this] { drain(); }); !watched) {
    give_up(watched.error().message());
    return;
  }
  drain();  // requests of before a restore or a stop
}

Queue BlockQueue::stop() {
  stopped_ = true;
  loop_.forget(kick_->fd());
  if (throttle_timer_) loop_.cancel_timer(*throttle_timer_);
  if (look_timer_) loop_.cancel_timer(*look_timer_);
  while (free_.size() < slots_.size()) {
    channel_->wait();
    finish_completed();
  }
  if (!broken_) notify();
  channel_.reset();
  return std::move(queue_);
}

void BlockQueue::drain() {
  if (broken_ || stopped_) return;
  const auto begin = PollWindow::Clock::now();
  window_.busy(begin);
  for (;;) {
    queue_.disable_kicks();
    const auto turn = serve_available();
    if (broken_) return;
    channel_->commit();
    const std::uint64_t working = bytes_in_flight_;
    finish_completed();
    const auto now = PollWindow::Clock::now();
    if (arrived_ > 0) moderation_.arrived(std::exchange(arrived_, 0), now);
    const bool is_long = now - begin >= kLongestDrain;
    if (turn == Turn::empty && !is_long) {
      // What came meanwhile shares the interrupt; serve_available() bounds how much.
      if (queue_.available().value_or(0) > 0) continue;
      if (!may_wait(now)) notify();
    } else {
      notify();
    }
    if (blocked_ == Blocked::limit) return;  // the timer comes back
    // A completion comes back.
    if (blocked_ == Blocked::slot && free_.empty()) return;
    if (blocked_ == Blocked::room && bytes_in_flight_ == working) return;
    if (is_long) {
      kick_->signal();  // to be back after the loop's other tasks
      return;
    }
    if (turn != Turn::empty) continue;
    if (poll_for_work()) continue;
    if (queue_.unnotified() > 0) {
      look_again();
      return;
    }
    if (!queue_.enable_kicks()) return;
  }
}

Turn BlockQueue::serve_available() {
  blocked_ = Blocked::no;
  return serve_chains(
      queue_, kMaxBatch,
      [this] {
        // A driver that offers more than the queue holds waits for its own requests.
        if (free_.empty() && slots_.size() >= queue_.size()) blocked_ = Blocked::slot;
        return blocked_ == Blocked::no;
      },
      [this](Chain& chain) { return serve(chain); },
      [] { return false; },  // drain() looks again, after what it has to do
      [this](std::string_view reason) { give_up(reason); });
}

std::uint32_t BlockQueue::take_slot() {
  if (free_.empty()) {
    slots_.emplace_back();
    return static_cast<std::uint32_t>(slots_.size() - 1);
  }
  const std::uint32_t tag = free_.back();
  free_.pop_back();
  return tag;
}

Handled BlockQueue::serve(Chain& chain) {
  const std::uint32_t tag = take_slot();
  Slot& slot = slots_[tag];
  const auto request = parse_request(chain, slot.scratch);
  if (!request) {
    free_.push_back(tag);
    return Handled::refused(request.error());
  }
  const std::uint64_t bytes = size_of(*request);
  blocked_ = may_start(bytes);
  if (blocked_ != Blocked::no) {
    free_.push_back(tag);
    return Handled::not_yet();
  }
  ++arrived_;
  slot.chain.emplace(std::move(chain));  // its buffers stay where they are
  slot.status = request->status;
  slot.type = request->header.type;
  slot.data_written = 0;
  slot.operations = 0;
  slot.error = 0;
  slot.bytes = bytes;
  bytes_in_flight_ += bytes;
  if (const auto status = start_request(slot, tag, *request)) finish(tag, *status);
  finish_completed();
  if (unnotified_bytes_ >= kLongCopy) return Handled::kept(kMaxBatch);  // drain() notifies
  if (unnotified_bytes_ >= kNotifyBytes) notify();
  return Handled::kept();
}

BlockQueue::Blocked BlockQueue::may_start(std::uint64_t bytes) {
  if (bytes_in_flight_ > 0 && bytes > kMaxInFlight - std::min(bytes_in_flight_, kMaxInFlight)) {
    return Blocked::room;
  }
  return is_throttled(bytes) ? Blocked::limit : Blocked::no;
}

// How much of the disk it is about. Segments are copied out, once: the guest may change its own.
std::uint64_t BlockQueue::size_of(const BlockRequest& request) {
  segment_count_ = 0;
  switch (request.header.type) {
    case kTypeIn:
      return std::min(request.writable_size, kMaxTransfer);
    case kTypeOut:
      return std::min(request.readable_size, kMaxTransfer);
    case kTypeDiscard:
    case kTypeWriteZeroes:
      break;
    default:
      return 0;
  }
  if (request.readable_size % sizeof(Segment) != 0 || request.readable_size > sizeof segments_) {
    return 0;  // it will be refused
  }
  segment_count_ = request.readable_size / sizeof(Segment);
  const auto segments = std::span(segments_).first(segment_count_);
  (void)copy_from_buffers(request.readable, 0, std::as_writable_bytes(segments));
  std::uint64_t bytes = 0;
  for (const auto& segment : segments) bytes += segment.sectors * kSectorSize;
  return bytes;
}

bool BlockQueue::is_throttled(std::uint64_t bytes) {
  if (!shared_.limiter.limits_anything()) return false;
  const auto later = shared_.limiter.admit(bytes, disk::Clock::now());
  if (!later) return false;
  Counters::add(shared_.counters.throttled);
  if (!throttle_timer_) {
    throttle_timer_ = loop_.add_timer(*later, [this] {
      throttle_timer_.reset();
      drain();
    });
  }
  return true;
}

// The status when the request is done, nothing when the disk works on it.
std::optional<Status> BlockQueue::start_request(Slot& slot, std::uint32_t tag,
                                                const BlockRequest& request) {
  Status status = Status::unsupported;
  is_awaited_ |= request.header.type != kTypeIn && request.header.type != kTypeOut;
  switch (request.header.type) {
    case kTypeIn:
    case kTypeOut:
      status = start_transfer(slot, tag, request);
      break;
    case kTypeFlush:
      status = start_flush(slot, tag);
      break;
    case kTypeGetId:
      return get_id(slot, request);
    case kTypeDiscard:
    case kTypeWriteZeroes:
      status = start_segments(slot, tag, request);
      break;
    default:
      break;
  }
  if (status == Status::ok) return std::nullopt;
  return status;
}

bool BlockQueue::is_in_range(std::uint64_t sector, std::uint64_t length) const {
  const auto& info = shared_.disk->info();
  const std::uint64_t sectors = info.size / kSectorSize;
  if (sector > sectors || length / kSectorSize > sectors - sector) return false;
  return length % info.block_size == 0 && sector * kSectorSize % info.block_size == 0;
}

Status BlockQueue::start_transfer(Slot& slot, std::uint32_t tag, const BlockRequest& request) {
  const bool write = request.header.type == kTypeOut;
  const std::uint64_t length = write ? request.readable_size : request.writable_size;
  const std::uint64_t other = write ? request.writable_size : request.readable_size;
  if (length == 0 || length > kMaxTransfer || other != 0) return Status::io_error;
  if (!is_in_range(request.header.sector, length)) return Status::io_error;
  if (write && shared_.disk->info().read_only) return Status::io_error;
  if (write) {
    Counters::add(shared_.counters.writes);
    Counters::add(shared_.counters.bytes_written, length);
  } else {
    slot.data_written = static_cast<std::uint32_t>(length);
    Counters::add(shared_.counters.reads);
    Counters::add(shared_.counters.bytes_read, length);
  }
  slot.operations = 1;
  unnotified_bytes_ += length;
  disk::Request operation;
  operation.operation = write ? disk::Operation::write : disk::Operation::read;
  // A driver without FLUSH relies on writes being stable when they complete (5.2.6.2).
  operation.durable = write && (features_ & kFeatureFlush) == 0;
  operation.more = queue_.available().value_or(0) > 0;
  operation.tag = tag;
  operation.offset = request.header.sector * kSectorSize;
  operation.length = length;
  operation.buffers = write ? request.readable : request.writable;
  channel_->submit(operation);
  return Status::ok;
}

Status BlockQueue::start_flush(Slot& slot, std::uint32_t tag) {
  if ((features_ & kFeatureFlush) == 0) return Status::unsupported;
  Counters::add(shared_.counters.flushes);
  slot.operations = 1;
  disk::Request operation;
  operation.operation = disk::Operation::flush;
  operation.tag = tag;
  channel_->submit(operation);
  return Status::ok;
}

Status BlockQueue::start_segments(Slot& slot, std::uint32_t tag, const BlockRequest& request) {
  const bool discard = request.header.type == kTypeDiscard;
  if ((features_ & (discard ? kFeatureDiscard : kFeatureWriteZeroes)) == 0) {
    return Status::unsupported;
  }
  if (segment_count_ == 0 || request.writable_size != 0) return Status::io_error;
  const auto segments = std::span(std::as_const(segments_)).first(segment_count_);
  // Checked whole before anything is done.
  const std::uint32_t known_flags = discard ? 0 : kSegmentUnmap;
  const std::uint32_t most = discard ? kMaxDiscardSectors : kMaxWriteZeroesSectors;
  for (const auto& segment : segments) {
    if ((segment.flags & ~known_flags) != 0) return Status::unsupported;
    if (segment.sectors == 0 || segment.sectors > most ||
        !is_in_range(segment.sector, segment.sectors * kSectorSize)) {
      return Status::io_error;
    }
  }
  if (shared_.disk->info().read_only) return Status::io_error;
  Counters::add(discard ? shared_.counters.discards : shared_.counters.write_zeroes);
  slot.operations = static_cast<std::uint32_t>(segments.size());
  for (const auto& segment : segments) {
    disk::Request operation;
    operation.operation = discard ? disk::Operation::discard : disk::Operation::write_zeroes;
    operation.may_unmap = (segment.flags & kSegmentUnmap) != 0;
    operation.tag = tag;
    operation.offset = segment.sector * kSectorSize;
    operation.length = segment.sectors * kSectorSize;
    channel_->submit(operation);
  }
  return Status::ok;
}

Status BlockQueue::get_id(Slot& slot, const BlockRequest& request) const {
  std::array<std::byte, kIdSize> id{};
  std::memcpy(id.data(), shared_.serial.data(), std::min(shared_.serial.size(), id.size()));
  slot.data_written = static_cast<std::uint32_t>(copy_to_buffers(request.writable, 0, id));
  return slot.data_written == 0 ? Status::io_error : Status::ok;
}

void BlockQueue::finish_completed() {
  const auto completed = channel_->reap();
  if (completed.empty()) return;
  if (shared_.limiter.limits_anything()) {
    shared_.limiter.charge_total(shared_.disk->copied_bytes());
  }
  for (const auto& completion : completed) {
    Slot& slot = slots_[completion.tag];
    if (completion.error != 0) slot.error = completion.error;
    if (--slot.operations > 0) continue;
    if (slot.error != 0) {
      if (const auto count = shared_.failures.note()) {
        log::warn_limited(
            shared_.log_limit, "disk '{}': a {} failed: {} (failure {} since it was attached)",
            shared_.disk->name(), type_name(slot.type), std::strerror(slot.error), *count);
      }
    }
    const Status failed = slot.error == ENOTSUP ? Status::unsupported : Status::io_error;
    finish(completion.tag, slot.error == 0 ? Status::ok : failed);
  }
}

void BlockQueue::finish(std::uint32_t tag, Status status) {
  Slot& slot = slots_[tag];
  // Before the guest can see the request's end: whoever answers it may read the counters.
  if (status != Status::ok) Counters::add(shared_.counters.errors);
  if (!broken_) {
    *slot.status = static_cast<std::byte>(status);
    const std::uint32_t data = status == Status::ok ? slot.data_written : 0;
    queue_.push(std::move(*slot.chain), data + 1);
  }
  slot.chain.reset();
  bytes_in_flight_ -= slot.bytes;
  free_.push_back(tag);
}

void BlockQueue::notify() {
  unnotified_bytes_ = 0;
  is_awaited_ = false;
  if (const auto done = queue_.unnotified()) moderation_.told(done);
  if (queue_.take_notification()) interrupts_.queue_used(index_);
}

// While the disk works on something, its completions come in their own time.
bool BlockQueue::may_wait(InterruptModeration::Clock::time_point now) const {
  return !is_awaited_ && free_.size() == slots_.size() && queue_.unnotified() > 0 &&
         moderation_.may_wait(queue_.unnotified(), now);
}

// In place of kicks.
void BlockQueue::look_again() {
  if (look_timer_) return;
  const auto now = InterruptModeration::Clock::now();
  look_timer_ = loop_.add_timer(moderation_.next_look(queue_.unnotified(), now), [this] {
    look_timer_.reset();
    window_.forget();
    drain();
  });
}

bool BlockQueue::poll_for_work() {
  const auto start = PollWindow::Clock::now();
  window_.idle(start);
  if (window_.length() == PollWindow::Clock::duration{}) return false;
  const auto until = start + window_.length();
  for (;;) {
    const auto waiting = queue_.available();
    const auto now = PollWindow::Clock::now();
    if (!waiting || *waiting > 0) {
      window_.found();
      return true;
    }
    if (now >= until) {
      window_.missed(now);
      return false;
    }
    finish_completed();
    if (!may_wait(now)) notify();
  }
}

void BlockQueue::on_ready() {
  if (stopped_) return;
  finish_completed();
  if (broken_) return;
  notify();
  if (blocked_ == Blocked::slot || blocked_ == Blocked::room) drain();
}

void BlockQueue::give_up(std::string_view reason) {
  broken_ = true;
  loop_.forget(kick_->fd());
  interrupts_.needs_reset(reason);
}

}  // namespace vmm::virtio::blk
