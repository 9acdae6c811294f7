#include "devices/virtio/blk/block_device.h"

#include <algorithm>
#include <bit>

#include "devices/virtio/blk/state.h"
#include "src/disk/copied_disk.h"
#include "src/disk/empty_disk.h"
#include "src/disk/qcow2/snapshot_file.h"

namespace vmm::virtio {
namespace {

using namespace blk;

constexpr std::uint16_t kMinQueueSize = 4;
// Of a slot, whatever is in it: what files of all file systems stand well.
constexpr std::uint32_t kSlotPhysicalBlock = 4096;

Result<void> check(const disk::DiskConfig& config) {
  if (config.queues == 0 || config.queues > disk::kMaxQueues) {
    return fail("disk '{}': invalid queues {}: expected 1 to {}", config.path, config.queues,
                disk::kMaxQueues);
  }
  if (!std::has_single_bit(config.queue_size) || config.queue_size < kMinQueueSize ||
      config.queue_size > kMaxQueueSize) {
    return fail("disk '{}': invalid queue size {}: expected a power of two from {} to {}",
                config.path, config.queue_size, kMinQueueSize, kMaxQueueSize);
  }
  if (config.serial.size() > disk::kMaxSerial) {
    return fail("disk '{}': the serial number '{}' is longer than {} bytes", config.path,
                config.serial, disk::kMaxSerial);
  }
  return {};
}

disk::DiskInfo fixed_info(const disk::Disk& disk, const disk::DiskConfig& config) {
  if (!config.is_slot()) return disk.info();
  return {.physical_block_size = kSlotPhysicalBlock,
          .read_only = config.read_only,
          .can_discard = !config.read_only,
          .can_write_zeroes = !config.read_only};
}

Result<std::unique_ptr<disk::Disk>> open_disk_of(const disk::DiskConfig& config) {
  if (config.is_empty()) return std::make_unique<disk::EmptyDisk>();
  auto disk = TRY(disk::open_disk(config));
  if (!config.is_slot()) return disk;
  const auto& info = disk->info();
  if (info.size > config.slot_size) {
    return fail("disk '{}' has {} bytes: the slot takes at most {}", disk->name(), info.size,
                config.slot_size);
  }
  if (info.block_size != disk::kSectorSize) {
    return fail("disk '{}' has blocks of {} bytes: a slot takes disks with blocks of {}",
                disk->name(), info.block_size, disk::kSectorSize);
  }
  return disk;
}

std::string shown_name(const disk::DiskConfig& config) {
  return config.label.empty() ? config.path : config.label;
}

Config make_config(std::uint64_t size, const disk::DiskInfo& info,
                   const disk::DiskConfig& options) {
  Config config;
  config.capacity = size / disk::kSectorSize;
  // Header and status take two more descriptors, and no chain may be longer than its queue.
  config.seg_max = options.queue_size - 2u;
  config.block_size = info.block_size;
  const std::uint32_t ratio = info.physical_block_size / info.block_size;
  config.physical_block_exponent =
      static_cast<std::uint8_t>(std::bit_width(std::max(ratio, 1u)) - 1);
  config.min_io_size = static_cast<std::uint16_t>(std::max(ratio, 1u));
  config.num_queues = options.queues;
  if (info.can_discard) {
    config.max_discard_sectors = kMaxDiscardSectors;
    config.max_discard_segments = kMaxSegments;
    config.discard_sector_alignment = info.physical_block_size / disk::kSectorSize;
  }
  if (info.can_write_zeroes) {
    config.max_write_zeroes_sectors = kMaxWriteZeroesSectors;
    config.max_write_zeroes_segments = kMaxSegments;
    config.write_zeroes_may_unmap = 1;
  }
  return config;
}

}  // namespace

Result<std::unique_ptr<BlockDevice>> BlockDevice::create(const disk::DiskConfig& config,
                                                         std::string name) {
  TRY(check(config));
  return create(TRY(open_disk_of(config)), config, std::move(name));
}

Result<std::unique_ptr<BlockDevice>> BlockDevice::create(std::unique_ptr<disk::Disk> disk,
                                                         const disk::DiskConfig& config,
                                                         std::string name) {
  TRY(check(config));
  return std::unique_ptr<BlockDevice>(new BlockDevice(std::move(disk), config, std::move(name)));
}

BlockDevice::BlockDevice(std::unique_ptr<disk::Disk> disk, const disk::DiskConfig& config,
                         std::string name)
    : disk_(std::move(disk)),
      name_(std::move(name)),
      shown_(shown_name(config)),
      shown_size_(disk_->info().size),
      read_only_(config.read_only),
      slot_size_(config.slot_size),
      fixed_(fixed_info(*disk_, config)),
      told_size_(disk_->info().size),
      queues_(config.queues),
      queue_size_(config.queue_size),
      config_(make_config(disk_->info().size, fixed_, config)),
      shared_{disk_.get(), config.serial, disk::RateLimiter(config.limits, disk::Clock::now())} {}

BlockDevice::~BlockDevice() { (void)deactivate(); }

std::uint64_t BlockDevice::features() const {
  const auto& info = fixed_;
  std::uint64_t features = kFeatureSegMax | kFeatureBlockSize | kFeatureFlush | kFeatureTopology |
                           kFeatureEventIdx | kFeatureIndirectDescriptors;
  if (info.read_only) features |= kFeatureReadOnly;
  if (queues_ > 1) features |= kFeatureMultiQueue;
  if (info.can_discard) features |= kFeatureDiscard;
  if (info.can_write_zeroes) features |= kFeatureWriteZeroes;
  return features;
}

std::vector<std::uint16_t> BlockDevice::queue_sizes() const {
  return std::vector<std::uint16_t>(queues_, queue_size_);
}

void BlockDevice::read_config(std::uint64_t offset, std::span<std::byte> target) const {
  read_config_bytes(std::as_bytes(std::span(&config_, 1)), offset, target);
}

Result<void> BlockDevice::activate(Activation activation) {
  std::vector<Server> servers;
  for (std::size_t i = 0; i < activation.queues.size(); ++i) {
    auto& server = servers.emplace_back();
    auto& active = activation.queues[i];
    if (!active) continue;
    server.worker = TRY(Worker::start(i == 0 ? name_ : fmt::format("{}.{}", name_, i)));
    server.queue = std::make_unique<BlockQueue>(shared_, server.worker->loop(),
                                                static_cast<std::uint16_t>(i), std::move(*active),
                                                activation.features, *activation.interrupts);
  }
  servers_ = std::move(servers);
  for (auto& server : servers_) {
    if (server.queue) server.worker->loop().post([queue = server.queue.get()] { queue->start(); });
  }
  const auto size = disk_->info().size;
  if (std::exchange(told_size_, size) != size) activation.interrupts->config_changed();
  return {};
}

std::vector<std::optional<Queue>> BlockDevice::deactivate() {
  std::vector<std::optional<Queue>> queues(servers_.size());
  for (std::size_t i = 0; i < servers_.size(); ++i) {
    auto& server = servers_[i];
    if (!server.queue) continue;
    server.worker->loop().call([&] { queues[i] = server.queue->stop(); });
  }
  servers_.clear();
  return queues;
}

// ---- slots

class BlockDevice::Exchange : public SlotChange {
 public:
  Exchange(BlockDevice& device, std::unique_ptr<disk::Disk> disk, std::string shown)
      : device_(device), disk_(std::move(disk)), shown_(std::move(shown)) {}

 private:
  Result<void> do_make() override {
    disk_ = device_.put(std::move(disk_), shown_);
    return {};
  }

  BlockDevice& device_;
  std::unique_ptr<disk::Disk> disk_;  // the new one, then the old one
  const std::string shown_;
};

class BlockDevice::Resizing : public SlotChange {
 public:
  Resizing(BlockDevice& device, std::uint64_t size) : device_(device), size_(size) {}

 private:
  Result<void> do_make() override { return device_.grow(size_); }

  BlockDevice& device_;
  const std::uint64_t size_;
};

Result<std::unique_ptr<SlotChange>> BlockDevice::prepare(const disk::DiskConfig& config) {
  return std::make_unique<Exchange>(*this, TRY(open_disk_of(config)), shown_name(config));
}

Result<std::unique_ptr<SlotChange>> BlockDevice::prepare_resize(const disk::DiskConfig& config,
                                                                std::uint64_t size) {
  const auto now = disk_->info().size;
  if (read_only_) return fail("disk '{}' is read-only, and is not resized", disk_->name());
  if (size < now) {
    return fail("disk '{}' has {} bytes: while a guest has it, it only grows", disk_->name(), now);
  }
  if (size > slot_size_ || size % disk::kSectorSize != 0) {
    return fail("invalid size of {} bytes: expected a multiple of {} up to the slot's {}", size,
                disk::kSectorSize, slot_size_);
  }
  if (!config.scratch) TRY(disk::qcow2::refuse_snapshot_file(config.path));
  // What takes its time is done before the device waits for it.
  TRY(disk_->sync());
  return std::make_unique<Resizing>(*this, size);
}

std::unique_ptr<disk::Disk> BlockDevice::put(std::unique_ptr<disk::Disk> disk,
                                             const std::string& shown) {
  std::swap(disk_, disk);
  copied_ = nullptr;
  look_at_disk();
  std::lock_guard lock(shown_mutex_);
  shown_ = shown;
  return disk;
}

// The next snapshot copies all of it.
Result<void> BlockDevice::grow(std::uint64_t size) {
  if (copied_ != nullptr) disk_ = std::exchange(copied_, nullptr)->release();
  auto grown = disk_->grow(size);
  look_at_disk();
  return grown;
}

void BlockDevice::look_at_disk() {
  shared_.disk = disk_.get();
  shared_.limiter.restart_total(disk_->copied_bytes());
  shared_.failures.restart();
  config_.capacity = disk_->info().size / disk::kSectorSize;
  std::lock_guard lock(shown_mutex_);
  shown_size_ = disk_->info().size;
}

disk::CopiedDisk* BlockDevice::copied_disk() {
  if (disk_->info().size == 0) return nullptr;  // an empty slot
  if (copied_ == nullptr) {
    auto wrapper = disk::CopiedDisk::over(std::move(disk_));
    copied_ = wrapper.get();
    disk_ = std::move(wrapper);
    shared_.disk = disk_.get();
    shared_.limiter.restart_total(disk_->copied_bytes());
  }
  return copied_;
}

NamedValues BlockDevice::metrics() {
  const auto s = statistics();
  return {{"reads", s.reads},
          {"writes", s.writes},
          {"flushes", s.flushes},
          {"discards", s.discards},
          {"write_zeroes", s.write_zeroes},
          {"bytes_read", s.bytes_read},
          {"bytes_written", s.bytes_written},
          {"errors", s.errors},
          {"throttled", s.throttled}};
}

NamedValues BlockDevice::status() const {
  std::lock_guard lock(shown_mutex_);
  NamedValues status{{"path", shown_}, {"read_only", read_only_}};
  if (slot_size_ != 0) {
    status.push_back({"size", shown_size_});
    status.push_back({"slot_size", slot_size_});
  }
  return status;
}

void BlockDevice::save(state::Sections& sections, std::string_view name) const {
  sections.put(name, BlockState{told_size_, disk_->info().block_size, shared_.serial});
}

Result<void> BlockDevice::restore(state::Sections& sections, std::string_view name) {
  const auto state = TRY(sections.take<BlockState>(name));
  const auto& info = disk_->info();
  // A slot may have another disk in it, or none: its driver is told when it goes on.
  if ((state.size != info.size && slot_size_ == 0) || state.block_size != info.block_size) {
    return fail("the disk had {} bytes in blocks of {}, '{}' has {} in blocks of {}", state.size,
                state.block_size, disk_->name(), info.size, info.block_size);
  }
  told_size_ = state.size;
  shared_.serial = state.serial;
  return {};
}

}  // namespace vmm::virtio
