#include "devices/virtio/blk/block_device.h"

#include <algorithm>
#include <bit>

#include "devices/backend/disk/copied_disk.h"
#include "devices/virtio/blk/state.h"

namespace vmm::virtio {
namespace {

using namespace blk;

constexpr std::uint16_t kMinQueueSize = 4;

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

Config make_config(const disk::DiskInfo& info, const disk::DiskConfig& options) {
  Config config;
  config.capacity = info.size / disk::kSectorSize;
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
  return create(TRY(disk::open_disk(config)), config, std::move(name));
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
      shown_(config.label.empty() ? config.path : config.label),
      read_only_(config.read_only),
      queues_(config.queues),
      queue_size_(config.queue_size),
      config_(make_config(disk_->info(), config)),
      shared_{disk_.get(), config.serial, disk::RateLimiter(config.limits, disk::Clock::now())} {}

BlockDevice::~BlockDevice() { (void)deactivate(); }

std::uint64_t BlockDevice::features() const {
  const auto& info = disk_->info();
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

disk::CopiedDisk* BlockDevice::copied_disk() {
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

NamedValues BlockDevice::status() const { return {{"path", shown_}, {"read_only", read_only_}}; }

void BlockDevice::save(state::Sections& sections, std::string_view name) const {
  const auto& info = disk_->info();
  sections.put(name, BlockState{info.size, info.block_size, shared_.serial});
}

Result<void> BlockDevice::restore(state::Sections& sections, std::string_view name) {
  const auto state = TRY(sections.take<BlockState>(name));
  const auto& info = disk_->info();
  if (state.size != info.size || state.block_size != info.block_size) {
    return fail("the disk had {} bytes in blocks of {}, '{}' has {} in blocks of {}", state.size,
                state.block_size, disk_->name(), info.size, info.block_size);
  }
  shared_.serial = state.serial;
  return {};
}

}  // namespace vmm::virtio
