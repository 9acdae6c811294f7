// Qcow2Disk: a disk whose bytes are those of a chain of images.
#pragma once

#include "src/disk/qcow2/chain.h"

namespace vmm::disk::qcow2 {

class Qcow2Disk : public Disk {
 public:
  static Result<std::unique_ptr<Qcow2Disk>> open(const DiskConfig& config);

  const DiskInfo& info() const override { return info_; }
  const std::string& name() const override { return chain_->file(0).name(); }
  std::unique_ptr<Channel> open_channel(EventLoop& loop, std::function<void()> ready) override;
  Result<void> sync() override { return flushed(chain_->flush()); }
  Result<void> settle() override { return flushed(chain_->settle()); }
  Result<void> grow(std::uint64_t size) override;
  Result<void> read(std::uint64_t offset, std::span<std::byte> target) override;
  Result<DataRange> next_data(std::uint64_t offset) override;
  std::uint64_t copied_bytes() const override { return chain_->copied_bytes(); }

 private:
  Qcow2Disk(std::unique_ptr<Chain> chain, IoEngine io) : chain_(std::move(chain)), io_(io) {}

  Result<void> flushed(int error) const;

  std::unique_ptr<Chain> chain_;
  IoEngine io_;
  DiskInfo info_;
};

}  // namespace vmm::disk::qcow2
