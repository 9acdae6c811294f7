// RawFile: an open file or block device whose bytes are the disk's, and its blocking operations.
// Shared by all channels of a disk.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "src/base/log.h"
#include "src/base/unique_fd.h"
#include "src/disk/disk.h"

namespace vmm::disk {

class RawFile {
 public:
  enum class Kind : std::uint8_t { file, block_device };
  // What its bytes are: a disk's, or a format's, which may be of any size.
  enum class Content : std::uint8_t { disk, format };

  // Opens, checks and locks (image_lock.h): shared when read-only, exclusive otherwise.
  static Result<std::unique_ptr<RawFile>> open(const DiskConfig& config,
                                               Content content = Content::disk);

  const DiskInfo& info() const { return info_; }
  const std::string& name() const { return name_; }
  int fd() const { return fd_.get(); }
  Kind kind() const { return kind_; }
  bool direct() const { return direct_; }
  // Whether its pages never leave the memory (tmpfs): no transfer waits for a device.
  bool in_memory() const { return in_memory_; }

  // The first part of [offset, the file's end) that is no hole (SEEK_DATA); as Disk::next_data().
  Result<DataRange> next_data(std::uint64_t offset) const;

  // For lines about it that a guest can cause: the disk outlives its channels, which a guest has
  // made anew as often as it likes.
  log::RateLimit& log_limit() { return log_limit_; }

  // See Disk::grow().
  Result<void> grow(std::uint64_t size);

  // Carries a request out on the calling thread; 0 or the errno. Any thread.
  int perform(const Request& request);
  // Whether O_DIRECT takes these buffers as they are.
  bool is_aligned(const Request& request) const;

  // For writes carried out elsewhere (io_uring): what a flush has to cover. note_written() comes
  // after the write completed and before anyone is told.
  void note_written() { written_.fetch_add(1, std::memory_order_release); }
  std::uint64_t written() const { return written_.load(std::memory_order_acquire); }
  bool is_flushed() const { return flushed_.load(std::memory_order_acquire) == written(); }
  // What was written when the fdatasync that has just succeeded began.
  void note_flushed(std::uint64_t written);

 private:
  RawFile(std::string name, UniqueFd fd) : name_(std::move(name)), fd_(std::move(fd)) {}
  Result<void> check_kind(bool read_only, Content content);
  Result<void> find_block_sizes(Content content);

  int transfer(const Request& request) const;
  int transfer_bounced(const Request& request) const;
  int flush();
  int discard(std::uint64_t offset, std::uint64_t length);
  int write_zeroes(const Request& request);
  int fill_zeroes(std::uint64_t offset, std::uint64_t length) const;
  void warn_unsupported(std::atomic<bool>& supported, const char* what) const;

  std::string name_;
  UniqueFd fd_;
  Kind kind_ = Kind::file;
  bool direct_ = false;
  bool in_memory_ = false;
  std::uint32_t memory_alignment_ = 1;  // of buffers, for O_DIRECT
  DiskInfo info_;
  log::RateLimit log_limit_{3};

  // Cleared when the host's file system refuses one, so that it is asked once.
  std::atomic<bool> can_punch_{true};
  std::atomic<bool> can_zero_{true};
  // Completed writes, and how many of them the last flush covered. The first flush is never
  // skipped: who wrote the file before us may have left it unsynced.
  std::atomic<std::uint64_t> written_{1};
  std::atomic<std::uint64_t> flushed_{0};
};

}  // namespace vmm::disk
