// RawDisk: a disk whose bytes are those of a file or of a block device.
#pragma once

#include "src/disk/raw_file.h"

namespace vmm::disk {

class RawDisk : public Disk {
 public:
  static Result<std::unique_ptr<RawDisk>> open(const DiskConfig& config);

  const DiskInfo& info() const override { return file_->info(); }
  const std::string& name() const override { return file_->name(); }
  std::unique_ptr<Channel> open_channel(EventLoop& loop, std::function<void()> ready) override;
  Result<void> sync() override;
  Result<void> grow(std::uint64_t size) override { return file_->grow(size); }
  Result<void> read(std::uint64_t offset, std::span<std::byte> target) override;
  Result<DataRange> next_data(std::uint64_t offset) override { return file_->next_data(offset); }
  int plain_file() const override;

 private:
  RawDisk(std::unique_ptr<RawFile> file, IoEngine io) : file_(std::move(file)), io_(io) {}

  std::unique_ptr<RawFile> file_;
  IoEngine io_;
};

}  // namespace vmm::disk
