// EmptyDisk: what a slot has in place of a disk: no sectors, and an error for each request.
#pragma once

#include <string>

#include "src/disk/disk.h"

namespace vmm::disk {

class EmptyDisk : public Disk {
 public:
  EmptyDisk() { info_.size = 0; }

  const DiskInfo& info() const override { return info_; }
  const std::string& name() const override { return name_; }
  std::unique_ptr<Channel> open_channel(EventLoop& loop, std::function<void()> ready) override;
  Result<void> sync() override { return {}; }
  Result<void> read(std::uint64_t offset, std::span<std::byte> target) override;

 private:
  DiskInfo info_;
  const std::string name_ = "an empty slot";
};

}  // namespace vmm::disk
