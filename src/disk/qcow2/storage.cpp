#include "src/disk/qcow2/storage.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "src/disk/qcow2/format.h"

namespace vmm::disk::qcow2 {
namespace {

constexpr std::uint64_t kGrowth = 4u << 20;

// For O_DIRECT: aligned in memory, and a window of whole blocks around a range.
class Window {
 public:
  Window(std::uint64_t offset, std::size_t length, std::uint64_t block)
      : begin_(round_down(offset, block)),
        size_(round_up(offset + length, block) - begin_),
        memory_(std::aligned_alloc(4096, round_up(size_, 4096)), &std::free) {
    if (memory_) std::memset(memory_.get(), 0, size_);
  }
  explicit operator bool() const { return memory_ != nullptr; }
  std::uint64_t begin() const { return begin_; }
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(memory_.get()), size_}; }

 private:
  std::uint64_t begin_;
  std::uint64_t size_;
  std::unique_ptr<void, decltype(&std::free)> memory_;
};

}  // namespace

Storage::Storage(std::unique_ptr<RawFile> file)
    : file_(std::move(file)),
      first_size_(UINT64_MAX),
      size_(file_->info().size),
      used_(file_->info().size) {
  if (file_->kind() != RawFile::Kind::file) return;
  // The file's size as it is now, with the lock: who had the lock before may have let it grow since
  // it was opened, and growing it from a smaller size would cut that off.
  struct stat status{};
  if (::fstat(file_->fd(), &status) == 0) {
    used_ = static_cast<std::uint64_t>(status.st_size);
    size_.store(used_, std::memory_order_relaxed);
  }
  first_size_ = used_;
}

Storage::~Storage() { trim(); }

int Storage::read_some(std::uint64_t offset, std::span<std::byte> target) const {
  while (!target.empty()) {
    const ssize_t n =
        ::pread(file_->fd(), target.data(), target.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) break;
    target = target.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  std::ranges::fill(target, std::byte{0});
  return 0;
}

int Storage::read(std::uint64_t offset, std::span<std::byte> target) const {
  if (!file_->direct()) return read_some(offset, target);
  const Window window(offset, target.size(), file_->info().block_size);
  if (!window) return ENOMEM;
  if (const int error = read_some(window.begin(), window.bytes()); error != 0) return error;
  std::memcpy(target.data(), window.bytes().data() + (offset - window.begin()), target.size());
  return 0;
}

int Storage::write_all(std::uint64_t offset, std::span<const std::byte> source) {
  // As the disk's own writes, so that a flush knows of it.
  const iovec buffer{const_cast<std::byte*>(source.data()), source.size()};
  Request request;
  request.operation = Operation::write;
  request.offset = offset;
  request.length = source.size();
  request.buffers = {&buffer, 1};
  return file_->perform(request);
}

int Storage::write(std::uint64_t offset, std::span<const std::byte> source) {
  if (source.empty()) return 0;
  if (!file_->direct()) return write_all(offset, source);
  const Window window(offset, source.size(), file_->info().block_size);
  if (!window) return ENOMEM;
  if (window.bytes().size() != source.size()) {
    if (const int error = read_some(window.begin(), window.bytes()); error != 0) return error;
  }
  std::memcpy(window.bytes().data() + (offset - window.begin()), source.data(), source.size());
  return write_all(window.begin(), window.bytes());
}

int Storage::grow(std::uint64_t end) {
  std::lock_guard lock(mutex_);
  used_ = std::max(used_, end);
  if (end <= size()) return 0;
  if (file_->kind() != RawFile::Kind::file) return ENOSPC;
  if (end > INT64_MAX - kGrowth) return EFBIG;
  const std::uint64_t grown = round_up(end, kGrowth);
  if (::ftruncate(file_->fd(), static_cast<off_t>(grown)) < 0) return errno;
  file_->note_written();
  size_.store(grown, std::memory_order_relaxed);
  return 0;
}

void Storage::trim() {
  if (file_->kind() != RawFile::Kind::file || file_->info().read_only) return;
  std::lock_guard lock(mutex_);
  if (used_ >= size()) return;
  // After an error what is left is room for the next one.
  if (::ftruncate(file_->fd(), static_cast<off_t>(used_)) == 0) {
    size_.store(used_, std::memory_order_relaxed);
  }
}

int Storage::punch(std::uint64_t offset, std::uint64_t length) {
  Request request;
  request.operation = Operation::discard;
  request.offset = offset;
  request.length = length;
  return file_->perform(request);
}

int Storage::sync() {
  Request request;
  request.operation = Operation::flush;
  return file_->perform(request);
}

}  // namespace vmm::disk::qcow2
