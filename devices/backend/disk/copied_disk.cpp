#include "devices/backend/disk/copied_disk.h"

#include <unistd.h>

#include <algorithm>

#include "src/base/zero.h"

namespace vmm::disk {
namespace {

constexpr std::size_t kBits = 64;  // of the record's words

class RawFileTarget : public CopyTarget {
 public:
  explicit RawFileTarget(UniqueFd file) : file_(std::move(file)) {}
  Result<void> write(std::uint64_t offset, std::span<const std::byte> chunk) override {
    return is_zero(chunk) ? Result<void>() : write_all_at(file_.get(), chunk, offset);
  }
  Result<void> finish() override {
    if (::fdatasync(file_.get()) < 0) return fail_errno("cannot sync it");
    return {};
  }

 private:
  UniqueFd file_;
};

}  // namespace

std::unique_ptr<CopyTarget> copy_to_raw_file(UniqueFd file) {
  return std::make_unique<RawFileTarget>(std::move(file));
}

// A write waits for the copy of what it overwrites; everything else passes.
class CopiedDisk::CopyingChannel : public Channel {
 public:
  CopyingChannel(CopiedDisk& disk, std::unique_ptr<Channel> inner)
      : disk_(disk), inner_(std::move(inner)) {}
  void submit(const Request& request) override {
    if (request.operation != Operation::read && request.operation != Operation::flush) {
      disk_.before_write(request.offset, request.length);
    }
    inner_->submit(request);
  }
  void commit() override { inner_->commit(); }
  std::span<const Completion> reap() override { return inner_->reap(); }
  void wait() override { inner_->wait(); }

 private:
  CopiedDisk& disk_;
  std::unique_ptr<Channel> inner_;
};

CopiedDisk::CopiedDisk(std::unique_ptr<Disk> disk)
    : inner_(std::move(disk)),
      chunks_((inner_->info().size + kChunk - 1) / kChunk),
      written_((chunks_ + kBits - 1) / kBits) {}

std::unique_ptr<CopiedDisk> CopiedDisk::over(std::unique_ptr<Disk> disk) {
  return std::unique_ptr<CopiedDisk>(new CopiedDisk(std::move(disk)));
}

std::unique_ptr<Channel> CopiedDisk::open_channel(EventLoop& loop, std::function<void()> ready) {
  return std::make_unique<CopyingChannel>(*this, inner_->open_channel(loop, std::move(ready)));
}

void CopiedDisk::begin(What what, std::unique_ptr<CopyTarget> target) {
  std::lock_guard lock(mutex_);
  target_ = std::move(target);
  error_.reset();
  wanted_.assign(chunks_, what == What::all);
  for (std::size_t chunk = 0; what == What::written && chunk < chunks_; ++chunk) {
    wanted_[chunk] = (written_[chunk / kBits].load(std::memory_order_relaxed) >> chunk % kBits) & 1;
  }
  copying_.store(true, std::memory_order_release);
}

void CopiedDisk::start_record() {
  for (auto& word : written_) word.store(0, std::memory_order_relaxed);
}

void CopiedDisk::before_write(std::uint64_t offset, std::uint64_t length) {
  if (length == 0) return;
  const std::size_t end = std::min((offset + length - 1) / kChunk + 1, std::uint64_t{chunks_});
  for (std::size_t chunk = offset / kChunk; chunk < end; ++chunk) {
    auto& word = written_[chunk / kBits];
    const std::uint64_t bit = std::uint64_t{1} << chunk % kBits;
    // Read first: a cache line that nobody writes to is everybody's.
    if ((word.load(std::memory_order_relaxed) & bit) == 0) {
      word.fetch_or(bit, std::memory_order_relaxed);
    }
  }
  if (!copying_.load(std::memory_order_acquire)) return;
  for (std::size_t chunk = offset / kChunk; chunk < end; ++chunk) {
    // One at a time, so that others are served in between.
    std::lock_guard lock(mutex_);
    copy_chunk(chunk);
  }
}

void CopiedDisk::copy_chunk(std::size_t chunk) {
  if (chunk >= wanted_.size() || !wanted_[chunk]) return;
  wanted_[chunk] = false;
  if (error_) return;
  const std::uint64_t offset = chunk * kChunk;
  buffer_.resize(std::min(kChunk, inner_->info().size - offset));
  if (const auto result = inner_->read(offset, buffer_); !result) {
    error_ = result.error().message();
  } else if (const auto written = target_->write(offset, buffer_); !written) {
    error_ =
        fmt::format("cannot write the copy of disk '{}': {}", name(), written.error().message());
  }
}

Result<void> CopiedDisk::copy_rest() {
  for (std::size_t chunk = 0; chunk < chunks_; ++chunk) {
    std::lock_guard lock(mutex_);
    if (error_) break;
    copy_chunk(chunk);
  }
  copying_.store(false, std::memory_order_release);
  std::unique_ptr<CopyTarget> target;
  {
    std::lock_guard lock(mutex_);
    target = std::move(target_);
    wanted_ = {};
    if (error_) return fail("{}", *error_);
  }
  if (const auto finished = target->finish(); !finished) {
    return fail("cannot write the copy of disk '{}': {}", name(), finished.error().message());
  }
  return {};
}

void CopiedDisk::give_up() {
  copying_.store(false, std::memory_order_release);
  std::lock_guard lock(mutex_);
  if (!error_) error_ = "the copy was given up";
  // The file may have no name any more: its space would be taken as long as this machine runs.
  target_.reset();
  wanted_ = {};
}

}  // namespace vmm::disk
