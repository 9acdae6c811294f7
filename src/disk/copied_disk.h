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
#include <string>
#include <utility>
#include <vector>

#include "src/base/progress.h"
#include "src/base/unique_fd.h"
#include "src/disk/chunk_set.h"
#include "src/disk/disk.h"

namespace vmm::disk {

// Where a copy goes. One thread at a time.
class CopyTarget {
 public:
  // `path` names it in errors.
  explicit CopyTarget(std::string path) : path_(std::move(path)) {}
  virtual ~CopyTarget() = default;
  const std::string& path() const { return path_; }
  // Of CopiedDisk::kChunk bytes at a multiple of that, fewer at the disk's end; each once. What is
  // a hole of the disk is left out of a copy of all (What::all): that target starts as zeroes.
  virtual Result<void> write(std::uint64_t offset, std::span<const std::byte> chunk) = 0;
  // Nothing more comes; on stable storage when it returns.
  virtual Result<void> finish() = 0;

 private:
  std::string path_;
};

// A file of the disk's size, all a hole, where holes stay for zeroes.
std::unique_ptr<CopyTarget> copy_to_raw_file(UniqueFd file, std::string path);

class CopiedDisk : public Disk {
 public:
  static constexpr std::uint64_t kChunk = 64u << 10;

  static std::unique_ptr<CopiedDisk> over(std::unique_ptr<Disk> disk);

  enum class What : std::uint8_t { all, written };
  // While nothing is in flight, and no other copy is being made.
  void begin(What what, std::unique_ptr<CopyTarget> target);
  // While nothing is in flight: what was written before does not count any more.
  void start_record();
  // Whether that was ever called: else nobody knows what an earlier copy has of it.
  bool is_recording() const { return is_recording_; }

  // Copies what is not copied yet, and lets go of the target. Blocks; once for each begin().
  // Error: reading or writing failed, or it was cancelled; the copy is of no use. `progress`
  // advances by the bytes that are passed, at most info().size.
  Result<void> copy_rest(Progress& progress = Progress::none());
  // No more copying: the guest's writes pass at once.
  void give_up();

  // The disk itself again, and the end of this. While nothing is copied, and no channel is open.
  std::unique_ptr<Disk> release() { return std::move(inner_); }

  const DiskInfo& info() const override { return inner_->info(); }
  const std::string& name() const override { return inner_->name(); }
  std::unique_ptr<Channel> open_channel(EventLoop& loop, std::function<void()> ready) override;
  Result<void> sync() override { return inner_->sync(); }
  Result<void> settle() override { return inner_->settle(); }
  Result<void> read(std::uint64_t offset, std::span<std::byte> target) override {
    return inner_->read(offset, target);
  }
  Result<DataRange> next_data(std::uint64_t offset) override { return inner_->next_data(offset); }
  std::uint64_t copied_bytes() const override { return inner_->copied_bytes(); }
  int plain_file() const override { return inner_->plain_file(); }

 private:
  class CopyingChannel;

  explicit CopiedDisk(std::unique_ptr<Disk> disk);
  // Before [offset, offset + length) is changed.
  void before_write(std::uint64_t offset, std::uint64_t length);
  // Why a copy to `target` failed, for whoever asked for it.
  std::string not_written(const CopyTarget& target, const Error& error) const;
  // With mutex_ held.
  bool is_wanted(std::uint64_t chunk) const;
  bool is_hole(std::uint64_t chunk, DataRange& known);
  void copy_chunk(std::uint64_t chunk, DataRange& known);  // unless it need not be copied
  void forget();

  std::unique_ptr<Disk> inner_;
  const std::uint64_t chunks_;
  ChunkSet written_;  // since start_record()
  bool is_recording_ = false;
  std::atomic<bool> copying_{false};
  std::mutex mutex_;                    // guards all below
  std::unique_ptr<CopyTarget> target_;  // while copying, as all below
  What what_ = What::all;
  ChunkSet wanted_;         // What::written: what is to be copied
  ChunkSet copied_;         // of these, what is
  std::uint64_t rest_ = 0;  // what lies before is copied, too
  std::vector<std::byte> buffer_;
  std::optional<std::string> error_;
};

}  // namespace vmm::disk
