#include "src/disk/copied_disk.h"

#include <unistd.h>

#include <algorithm>
#include <array>

#include "src/base/zero.h"

namespace vmm::disk {
namespace {

constexpr std::array<std::byte, CopiedDisk::kChunk> kZeroes{};

class RawFileTarget : public CopyTarget {
 public:
  RawFileTarget(UniqueFd file, std::string path)
      : CopyTarget(std::move(path)), file_(std::move(file)) {}
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

std::unique_ptr<CopyTarget> copy_to_raw_file(UniqueFd file, std::string path) {
  return std::make_unique<RawFileTarget>(std::move(file), std::move(path));
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
      written_(chunks_),
      wanted_(chunks_),
      copied_(chunks_) {}

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
  what_ = what;
  if (what == What::written) wanted_.assign(written_);
  rest_ = 0;
  copying_.store(true, std::memory_order_release);
}

void CopiedDisk::start_record() {
  written_.clear();
  is_recording_ = true;
}

void CopiedDisk::before_write(std::uint64_t offset, std::uint64_t length) {
  if (length == 0) return;
  const std::uint64_t end = std::min((offset + length - 1) / kChunk + 1, chunks_);
  for (std::uint64_t chunk = offset / kChunk; chunk < end; ++chunk) written_.insert(chunk);
  if (!copying_.load(std::memory_order_acquire)) return;
  DataRange known;
  for (std::uint64_t chunk = offset / kChunk; chunk < end; ++chunk) {
    // One at a time, so that others are served in between.
    std::lock_guard lock(mutex_);
    copy_chunk(chunk, known);
  }
}

bool CopiedDisk::is_wanted(std::uint64_t chunk) const {
  return target_ && chunk >= rest_ && !copied_.contains(chunk) &&
         (what_ == What::all || wanted_.contains(chunk));
}

// Of a chunk that nobody has changed since begin(): it is wanted, and mutex_ is held. `known` is
// the first data from some earlier chunk on.
bool CopiedDisk::is_hole(std::uint64_t chunk, DataRange& known) {
  const std::uint64_t offset = chunk * kChunk;
  if (offset >= known.offset + known.length) {
    const auto found = inner_->next_data(offset);
    const std::uint64_t size = inner_->info().size;
    // Who cannot tell holes may still be able to read.
    known = found ? *found : DataRange{offset, size - offset};
    if (known.length == 0) known = {size, kChunk};
  }
  return known.offset >= offset + kChunk;
}

void CopiedDisk::copy_chunk(std::uint64_t chunk, DataRange& known) {
  if (!is_wanted(chunk)) return;
  copied_.insert(chunk);
  if (error_) return;
  const std::uint64_t offset = chunk * kChunk;
  const std::uint64_t size = std::min(kChunk, inner_->info().size - offset);
  if (is_hole(chunk, known)) {
    if (what_ == What::all) return;
    if (const auto written = target_->write(offset, std::span(kZeroes).first(size)); !written) {
      error_ = not_written(*target_, written.error());
    }
    return;
  }
  buffer_.resize(size);
  if (const auto result = inner_->read(offset, buffer_); !result) {
    error_ = result.error().message();
  } else if (const auto written = target_->write(offset, buffer_); !written) {
    error_ = not_written(*target_, written.error());
  }
}

Result<void> CopiedDisk::copy_rest(Progress& progress) {
  DataRange known;
  std::uint64_t told = 0;
  for (std::uint64_t chunk = 0; chunk < chunks_;) {
    const std::uint64_t passed = chunk - std::exchange(told, chunk);
    const auto goes_on = progress.advance(passed * kChunk);
    std::lock_guard lock(mutex_);
    if (!goes_on && !error_) error_ = goes_on.error().message();
    if (error_) break;
    if (what_ == What::written) chunk = wanted_.next(chunk);
    if (chunk == chunks_) break;
    if (what_ == What::all && is_wanted(chunk) && is_hole(chunk, known)) {
      chunk = std::min(known.offset / kChunk, chunks_);
    } else {
      copy_chunk(chunk, known);
      ++chunk;
    }
    rest_ = chunk;
  }
  copying_.store(false, std::memory_order_release);
  std::unique_ptr<CopyTarget> target;
  {
    std::lock_guard lock(mutex_);
    target = std::move(target_);
    forget();
    if (error_) return fail("{}", *error_);
  }
  if (const auto finished = target->finish(); !finished) {
    return std::unexpected(Error(not_written(*target, finished.error())));
  }
  return {};
}

std::string CopiedDisk::not_written(const CopyTarget& target, const Error& error) const {
  return fmt::format("cannot write '{}', the copy of disk '{}': {}", target.path(), name(),
                     error.message());
}

void CopiedDisk::forget() {
  wanted_.clear();
  copied_.clear();
}

void CopiedDisk::give_up() {
  copying_.store(false, std::memory_order_release);
  std::lock_guard lock(mutex_);
  if (!error_) error_ = "the copy was given up";
  // The file may have no name any more: its space would be taken as long as this machine runs.
  target_.reset();
  forget();
}

}  // namespace vmm::disk
