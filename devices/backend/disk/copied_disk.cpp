#include "devices/backend/disk/copied_disk.h"

#include <unistd.h>

#include <algorithm>

#include "src/base/zero.h"

namespace vmm::disk {

// A write waits for the copy of what it overwrites; everything else passes.
class CopiedDisk::CopyingChannel : public Channel {
 public:
  CopyingChannel(CopiedDisk& disk, std::unique_ptr<Channel> inner)
      : disk_(disk), inner_(std::move(inner)) {}
  void submit(const Request& request) override {
    if (request.operation != Operation::read && request.operation != Operation::flush) {
      disk_.save(request.offset, request.length);
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

std::unique_ptr<CopiedDisk> CopiedDisk::over(std::unique_ptr<Disk> disk, UniqueFd target) {
  return std::unique_ptr<CopiedDisk>(new CopiedDisk(std::move(disk), std::move(target)));
}

std::unique_ptr<Channel> CopiedDisk::open_channel(EventLoop& loop, std::function<void()> ready) {
  return std::make_unique<CopyingChannel>(*this, inner_->open_channel(loop, std::move(ready)));
}

void CopiedDisk::save(std::uint64_t offset, std::uint64_t length) {
  if (!copying_.load(std::memory_order_acquire) || length == 0) return;
  const std::size_t last = (offset + length - 1) / kChunk;
  for (std::size_t chunk = offset / kChunk; chunk <= last; ++chunk) {
    // One at a time, so that others are served in between.
    std::lock_guard lock(mutex_);
    if (chunk < copied_.size() && !copied_[chunk]) copy_chunk(chunk);
  }
}

void CopiedDisk::copy_chunk(std::size_t chunk) {
  copied_[chunk] = true;
  if (error_) return;
  const std::uint64_t offset = chunk * kChunk;
  buffer_.resize(std::min(kChunk, inner_->info().size - offset));
  if (const auto result = inner_->read(offset, buffer_); !result) {
    error_ = result.error().message();
  } else if (!is_zero(buffer_)) {
    if (const auto written = write_all_at(target_.get(), buffer_, offset); !written) {
      error_ =
          fmt::format("cannot write the copy of disk '{}': {}", name(), written.error().message());
    }
  }
}

Result<void> CopiedDisk::copy_rest() {
  for (std::size_t chunk = 0; chunk < copied_.size(); ++chunk) {
    std::lock_guard lock(mutex_);
    if (error_) break;
    if (!copied_[chunk]) copy_chunk(chunk);
  }
  copying_.store(false, std::memory_order_release);
  std::lock_guard lock(mutex_);
  if (error_) return fail("{}", *error_);
  return {};
}

void CopiedDisk::give_up() {
  copying_.store(false, std::memory_order_release);
  std::lock_guard lock(mutex_);
  if (!error_) error_ = "the copy was given up";
  // The file may have no name any more: its space would be taken as long as this machine runs.
  if (target_) (void)::ftruncate(target_.get(), 0);
  target_.reset();
}

void CopiedDisk::release_target() {
  std::lock_guard lock(mutex_);
  target_.reset();
}

}  // namespace vmm::disk
