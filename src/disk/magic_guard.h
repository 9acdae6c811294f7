// MagicGuard: a raw disk whose format was found by looking at it, and whose guest may not make it
// look like qcow2: at the next start, such a header could name any file of the host as a backing
// file. A write that would put the magic at the disk's start fails with EPERM, as with QEMU.
#pragma once

#include "src/disk/disk.h"

namespace vmm::disk {

class MagicGuard : public Disk {
 public:
  explicit MagicGuard(std::unique_ptr<Disk> disk) : disk_(std::move(disk)) {}

  const DiskInfo& info() const override { return disk_->info(); }
  const std::string& name() const override { return disk_->name(); }
  std::unique_ptr<Channel> open_channel(EventLoop& loop, std::function<void()> ready) override;
  Result<void> sync() override { return disk_->sync(); }
  Result<void> grow(std::uint64_t size) override { return disk_->grow(size); }
  Result<void> read(std::uint64_t offset, std::span<std::byte> target) override {
    return disk_->read(offset, target);
  }
  Result<DataRange> next_data(std::uint64_t offset) override { return disk_->next_data(offset); }
  int plain_file() const override { return disk_->plain_file(); }

 private:
  std::unique_ptr<Disk> disk_;
};

}  // namespace vmm::disk
