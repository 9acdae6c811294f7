#include "src/disk/file_channel.h"

#include <algorithm>
#include <thread>

#include "src/base/log.h"

namespace vmm::disk {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// The longest transfer that the worker copies itself: longer ones would keep others waiting.
constexpr std::uint64_t kMaxInline = 4u << 20;
// A buffered write that took longer than this waited for the device.
constexpr auto kSlowWrite = milliseconds(1);
// A byte more than a copy takes on a slow machine, so that long writes are not taken for slow.
constexpr std::uint64_t kBytesPerMicrosecond = 256;
constexpr auto kSlowPause = milliseconds(100);
// The shortest copy that another thread is woken for.
constexpr std::uint64_t kMinShared = 128u << 10;

bool modifies(const Request& request) {
  return request.operation != Operation::read && request.operation != Operation::flush;
}

}  // namespace

FileChannel::FileChannel(RawFile& file, IoEngine io, EventLoop& loop, std::function<void()> ready)
    : file_(file),
      io_(io),
      loop_(loop),
      ready_(std::move(ready)),
      max_shared_(std::max(std::thread::hardware_concurrency(), 1u) - 1) {}

FileChannel::~FileChannel() {
  while (in_flight_ > 0) {
    wait();
    (void)reap();
  }
  if (uring_) loop_.forget(uring_->fd());
  if (threads_) loop_.forget(threads_->fd());
}

void FileChannel::submit(const Request& request) {
  const std::uint64_t sequence = ++sequence_;
  if (request.operation == Operation::flush && writes_in_flight_ > 0) {
    held_.push_back({request, sequence, writes_in_flight_});
    return;
  }
  if (!try_inline(request)) dispatch(request, sequence);
}

bool FileChannel::is_inline(const Request& request) {
  if (request.operation == Operation::flush && file_.is_flushed()) return true;
  if (io_ != IoEngine::automatic || request.length > kMaxInline) return false;
  switch (request.operation) {
    case Operation::read:
      return file_.in_memory() && !is_worth_sharing(request);
    case Operation::flush:
      return file_.in_memory();
    case Operation::write:
      if (file_.in_memory()) return true;
      return !file_.direct() && !request.durable && EventLoop::Clock::now() >= writes_slow_until_;
    case Operation::discard:
    case Operation::write_zeroes:
      return false;
  }
  return false;
}

// Of several long reads the kernel's threads make some copies on other processors, the worker the
// rest. (Writes would wait for one another: one at a time holds the inode.)
bool FileChannel::is_worth_sharing(const Request& request) const {
  return request.more && request.length >= kMinShared && in_flight_ < max_shared_;
}

bool FileChannel::try_inline(const Request& request) {
  if (!is_inline(request)) return false;
  if (file_.in_memory() || request.operation == Operation::flush) {
    done_.push_back({request.tag, file_.perform(request)});
    return true;
  }
  const auto start = EventLoop::Clock::now();
  done_.push_back({request.tag, file_.perform(request)});
  const auto end = EventLoop::Clock::now();
  if (end - start > kSlowWrite + microseconds(request.length / kBytesPerMicrosecond)) {
    writes_slow_until_ = end + kSlowPause;
  }
  return true;
}

void FileChannel::dispatch(const Request& request, std::uint64_t sequence) {
  const bool transfers = request.operation == Operation::read ||
                         request.operation == Operation::write ||
                         request.operation == Operation::flush;
  UringEngine* ring = transfers && file_.is_aligned(request) ? uring() : nullptr;
  ThreadEngine* pool = ring != nullptr ? nullptr : threads();
  if (ring == nullptr && pool == nullptr) {  // no descriptor to be had
    done_.push_back({request.tag, file_.perform(request)});
    return;
  }
  auto slot = static_cast<std::uint32_t>(pending_.size());
  if (free_.empty()) {
    pending_.emplace_back();
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  pending_[slot] = {request.tag, modifies(request), sequence};
  ++in_flight_;
  if (modifies(request)) ++writes_in_flight_;
  Request tagged = request;
  tagged.tag = slot;
  if (ring != nullptr) {
    ring->submit(tagged);
    if (request.more && file_.in_memory()) ring->commit();  // before the worker's own copies
  } else {
    pool->submit(tagged);
  }
}

void FileChannel::commit() {
  if (uring_) uring_->commit();
}

std::span<const Completion> FileChannel::reap() {
  if (in_flight_ > 0) {
    engine_done_.clear();
    if (uring_) uring_->reap(engine_done_);
    if (threads_) threads_->reap(engine_done_);
    for (const auto& completion : engine_done_) complete(completion);
  }
  reaped_.swap(done_);
  done_.clear();
  return reaped_;
}

void FileChannel::complete(const Completion& completion) {
  const Pending pending = pending_[completion.tag];
  free_.push_back(completion.tag);
  --in_flight_;
  done_.push_back({pending.tag, completion.error});
  if (!pending.modifies) return;
  --writes_in_flight_;
  if (!held_.empty()) release_flushes(pending.sequence);
}

void FileChannel::release_flushes(std::uint64_t write_sequence) {
  for (auto& held : held_) {
    if (write_sequence < held.sequence) --held.writes_left;
  }
  // Those that were held first wait for the fewest writes.
  while (!held_.empty() && held_.front().writes_left == 0) {
    const HeldFlush flush = held_.front();
    held_.pop_front();
    if (!try_inline(flush.request)) dispatch(flush.request, flush.sequence);
  }
  commit();
}

void FileChannel::wait() {
  commit();
  if (in_flight_ == 0 || !done_.empty()) return;
  std::vector<pollfd> polled;
  add_polled(polled);
  // An interrupted wait: the caller looks and waits again.
  (void)::poll(polled.data(), polled.size(), -1);
}

void FileChannel::add_polled(std::vector<pollfd>& polled) const {
  if (uring_) polled.push_back({uring_->fd(), POLLIN, 0});
  if (threads_) polled.push_back({threads_->fd(), POLLIN, 0});
}

UringEngine* FileChannel::uring() {
  if (uring_) return uring_.get();
  if (uring_failed_ || io_ == IoEngine::threads) return nullptr;
  auto engine = UringEngine::create(file_);
  if (!engine) {
    if (file_.log_limit().allow()) {
      // check: unlimited-log allowed, limited above
      log::info("disk '{}': {}; using threads", file_.name(), engine.error().message());
    }
    uring_failed_ = true;
    return nullptr;
  }
  uring_ = std::move(*engine);
  watch(uring_->fd());
  return uring_.get();
}

ThreadEngine* FileChannel::threads() {
  if (threads_) return threads_.get();
  auto engine =
      ThreadEngine::create([this](const Request& request) { return file_.perform(request); });
  if (!engine) {
    log::warn_limited(file_.log_limit(), "disk '{}': {}; its requests are carried out one by one",
                      file_.name(), engine.error().message());
    return nullptr;
  }
  threads_ = std::move(*engine);
  watch(threads_->fd());
  return threads_.get();
}

void FileChannel::watch(int fd) {
  const auto watched = loop_.watch(fd, EPOLLIN, [this](std::uint32_t) { ready_(); });
  if (!watched) {
    log::warn_limited(file_.log_limit(), "disk '{}': {}", file_.name(), watched.error().message());
  }
}

}  // namespace vmm::disk
