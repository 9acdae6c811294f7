// BlockDevice: virtio-blk (virtio 1.2, 5.2) over a Disk. Each queue has a thread of its own, from
// activation to deactivation: "blk0", "blk0.1", ...
//
//   auto device = TRY(BlockDevice::create({.path = "root.img"}, "blk0"));
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "devices/backend/disk/disk.h"
#include "devices/virtio/blk/block_queue.h"
#include "devices/virtio/blk/block_statistics.h"
#include "devices/virtio/device.h"
#include "src/base/worker.h"

namespace vmm::virtio {

class BlockDevice : public Device {
 public:
  // Opens the disk. `name` names the threads.
  static Result<std::unique_ptr<BlockDevice>> create(const disk::DiskConfig& config,
                                                     std::string name);
  // Over any disk; of `config`, serial, limits, queues and queue_size count.
  static Result<std::unique_ptr<BlockDevice>> create(std::unique_ptr<disk::Disk> disk,
                                                     const disk::DiskConfig& config,
                                                     std::string name);
  ~BlockDevice() override;

  DeviceType type() const override { return DeviceType::block; }
  std::uint64_t features() const override;
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> target) const override;
  Result<void> activate(Activation activation) override;
  std::vector<std::optional<Queue>> deactivate() override;
  void save(state::Sections& sections, std::string_view name) const override;
  Result<void> restore(state::Sections& sections, std::string_view name) override;

  NamedValues metrics() override;
  NamedValues status() const override;
  disk::CopiedDisk* copied_disk() override;

  const disk::Disk& disk() const { return *disk_; }
  // Any thread.
  BlockStatistics statistics() const { return shared_.counters.snapshot(); }

 private:
  // The worker is stopped first: until then its loop may call the queue.
  struct Server {
    std::unique_ptr<blk::BlockQueue> queue;
    std::unique_ptr<Worker> worker;
  };

  BlockDevice(std::unique_ptr<disk::Disk> disk, const disk::DiskConfig& config, std::string name);

  std::unique_ptr<disk::Disk> disk_;
  disk::CopiedDisk* copied_ = nullptr;  // disk_, once it is one
  std::string name_;
  const std::string shown_;  // what status calls the disk
  const bool read_only_;     // as it was asked for
  std::uint16_t queues_;
  std::uint16_t queue_size_;
  blk::Config config_;
  blk::BlockShared shared_;
  std::vector<Server> servers_;  // while active
};

}  // namespace vmm::virtio
