// CopiedDisk: a disk that can be copied as it was at one moment while its machine goes on writing
// to it, and knows what was written since an earlier moment.
//
//   auto copied = CopiedDisk::over(std::move(disk));      // channels of it serve the guest
//   copied->begin(CopiedDisk::What::all, std::move(target));   // the moment, nothing in flight
//   copied->start_record();                                    // what is written from now on ...
//   TRY(copied->copy_rest());                        // on another thread; then the copy is whole
//   copied->begin(CopiedDisk::What::written, ...);   // ... is all that a later copy takes
//
// What the guest is about to change is copied first (copy-before-write), 64 KiB at a time, on the
// thread that serves it; the rest is copied in the background. The disk itself stays the one that
// the guest writes to: if the copy fails, or the process dies, nothing of it is lost.
//
// Lock order: mutex_ alone.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "devices/backend/disk/disk.h"
#include "src/base/unique_fd.h"

namespace vmm::disk {

// Where a copy goes. One thread at a time.
class CopyTarget {
 public:
  virtual ~CopyTarget() = default;
  // Of CopiedDisk::kChunk bytes at a multiple of that, fewer at the disk's end; each once.
  virtual Result<void> write(std::uint64_t offset, std::span<const std::byte> chunk) = 0;
  // Nothing more comes; on stable storage when it returns.
  virtual Result<void> finish() = 0;
};

// A file of the disk's size, all a hole, where holes stay for zeroes.
std::unique_ptr<CopyTarget> copy_to_raw_file(UniqueFd file);

class CopiedDisk : public Disk {
 public:
  static constexpr std::uint64_t kChunk = 64u << 10;

  static std::unique_ptr<CopiedDisk> over(std::unique_ptr<Disk> disk);

  enum class What : std::uint8_t { all, written };
  // While nothing is in flight, and no other copy is being made.
  void begin(What what, std::unique_ptr<CopyTarget> target);
  // While nothing is in flight: what was written before does not count any more.
  void start_record();

  // Copies what is not copied yet, and lets go of the target. Blocks; once for each begin().
  // Error: reading or writing failed, the copy is of no use.
  Result<void> copy_rest();
  // No more copying: the guest's writes pass at once.
  void give_up();

  const DiskInfo& info() const override { return inner_->info(); }
  const std::string& name() const override { return inner_->name(); }
  std::unique_ptr<Channel> open_channel(EventLoop& loop, std::function<void()> ready) override;
  Result<void> sync() override { return inner_->sync(); }
  Result<void> read(std::uint64_t offset, std::span<std::byte> target) override {
    return inner_->read(offset, target);
  }
  int plain_file() const override { return inner_->plain_file(); }

 private:
  class CopyingChannel;

  explicit CopiedDisk(std::unique_ptr<Disk> disk);
  // Before [offset, offset + length) is changed.
  void before_write(std::uint64_t offset, std::uint64_t length);
  void copy_chunk(std::size_t chunk);  // with mutex_ held; unless it is copied, or need not be

  const std::unique_ptr<Disk> inner_;
  const std::size_t chunks_;
  std::vector<std::atomic<std::uint64_t>> written_;  // a bit a chunk, since start_record()
  std::atomic<bool> copying_{false};
  std::mutex mutex_;                    // guards all below
  std::unique_ptr<CopyTarget> target_;  // while copying
  std::vector<bool> wanted_;            // the same: chunks that are to be copied yet
  std::vector<std::byte> buffer_;
  std::optional<std::string> error_;
};

}  // namespace vmm::disk
