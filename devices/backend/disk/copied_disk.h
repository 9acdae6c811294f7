// CopiedDisk: a disk that is copied as it was at one moment while its machine goes on writing to
// it.
//
//   auto copied = CopiedDisk::over(std::move(disk), std::move(target));   // the moment
//   ... channels of it serve the guest ...
//   TRY(copied->copy_rest());                        // on another thread; then the copy is whole
//   disk = copied->take_inner();                     // when no channel is open
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

class CopiedDisk : public Disk {
 public:
  // While nothing is in flight. `target`: a file of the disk's size, all a hole; holes stay where
  // the disk has zeroes.
  static std::unique_ptr<CopiedDisk> over(std::unique_ptr<Disk> disk, UniqueFd target);

  // Copies what is not copied yet. Blocks; one call. Error: reading or writing failed, the copy is
  // of no use.
  Result<void> copy_rest();
  // No more copying: the guest's writes pass at once, and what was copied is given back.
  void give_up();
  // The copy is whole and somebody else's: lets go of its file.
  void release_target();
  int target() const { return target_.get(); }
  std::unique_ptr<Disk> take_inner() { return std::move(inner_); }

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
  static constexpr std::uint64_t kChunk = 64u << 10;

  CopiedDisk(std::unique_ptr<Disk> disk, UniqueFd target)
      : inner_(std::move(disk)),
        target_(std::move(target)),
        copied_((inner_->info().size + kChunk - 1) / kChunk) {}
  // Before [offset, offset + length) is changed.
  void save(std::uint64_t offset, std::uint64_t length);
  void copy_chunk(std::size_t chunk);  // with mutex_ held

  std::unique_ptr<Disk> inner_;
  std::atomic<bool> copying_{true};
  std::mutex mutex_;  // guards all below
  UniqueFd target_;
  std::vector<bool> copied_;
  std::vector<std::byte> buffer_;
  std::optional<std::string> error_;
};

}  // namespace vmm::disk
