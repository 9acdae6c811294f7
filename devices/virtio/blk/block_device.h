// BlockDevice: virtio-blk (virtio 1.2, 5.2) over a Disk. Each queue has a thread of its own, from
// activation to deactivation: "blk0", "blk0.1", ...
//
//   auto device = TRY(BlockDevice::create({.path = "root.img"}, "blk0"));
//
// Of a slot (DiskConfig::slot_size) all is fixed but the capacity, which is the disk's in it, and 0
// while there is none. So a guest's driver of an empty one reads nothing, not even a partition
// table; it is told of another capacity by the configuration interrupt, which comes before anything
// else when a restored guest first runs.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "devices/virtio/blk/block_queue.h"
#include "devices/virtio/blk/block_statistics.h"
#include "devices/virtio/device.h"
#include "devices/virtio/slot.h"
#include "src/base/worker.h"
#include "src/disk/disk.h"

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

  // What becomes of the slot. Beside the device's work; `config` is the slot's with what is to be
  // in it. Errors are sentences about the file.
  Result<std::unique_ptr<SlotChange>> prepare(const disk::DiskConfig& config);
  // Its disk, whatever has its name now, with `size` bytes, for the guest as well.
  Result<std::unique_ptr<SlotChange>> prepare_resize(const disk::DiskConfig& config,
                                                     std::uint64_t size);

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

  class Exchange;
  class Resizing;

  BlockDevice(std::unique_ptr<disk::Disk> disk, const disk::DiskConfig& config, std::string name);
  // Both while it is suspended or was never activated. What was there before.
  std::unique_ptr<disk::Disk> put(std::unique_ptr<disk::Disk> disk, const std::string& shown);
  Result<void> grow(std::uint64_t size);
  void look_at_disk();

  std::unique_ptr<disk::Disk> disk_;
  disk::CopiedDisk* copied_ = nullptr;  // disk_, once it is one
  std::string name_;
  mutable std::mutex shown_mutex_;
  std::string shown_;              // what status calls the disk; guarded by shown_mutex_
  std::uint64_t shown_size_;       // as well
  const bool read_only_;           // as it was asked for
  const std::uint64_t slot_size_;  // 0: not a slot
  const disk::DiskInfo fixed_;     // what the driver may count on, but for the size
  std::uint64_t told_size_;        // that the driver knows
  std::uint16_t queues_;
  std::uint16_t queue_size_;
  blk::Config config_;
  blk::BlockShared shared_;
  std::vector<Server> servers_;  // while active
};

}  // namespace vmm::virtio
