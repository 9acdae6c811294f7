#include "src/disk/qcow2/qcow2_disk.h"

#include <algorithm>

#include "src/disk/qcow2/qcow2_channel.h"
#include "src/disk/qcow2/resize.h"
#include "src/disk/uring_engine.h"

namespace vmm::disk::qcow2 {

Result<std::unique_ptr<Qcow2Disk>> Qcow2Disk::open(const DiskConfig& config) {
  DiskConfig image = config;
  image.format = ImageFormat::qcow2;
  auto chain = TRY(Chain::open(image));
  if (config.io == IoEngine::uring) {
    if (const auto probe = UringEngine::create(chain->file(0)); !probe) {
      return fail("disk '{}': {}; leave ',io=uring' out", config.path, probe.error().message());
    }
  }
  std::unique_ptr<Qcow2Disk> disk(new Qcow2Disk(std::move(chain), config.io));
  disk->info_ = disk->chain_->file(0).info();
  disk->info_.size = disk->chain_->size();
  if (disk->info_.size == 0) return fail("disk '{}' has a size of 0 bytes", config.path);
  if (disk->info_.size % disk->info_.block_size != 0) {
    return fail(
        "disk '{}' has {} bytes, which is not a multiple of {}; `vmm disk resize {} {}` rounds it",
        config.path, disk->info_.size, disk->info_.block_size, config.path,
        round_up(disk->info_.size, disk->info_.block_size));
  }
  return disk;
}

std::unique_ptr<Channel> Qcow2Disk::open_channel(EventLoop& loop, std::function<void()> ready) {
  return std::make_unique<Qcow2Channel>(*chain_, io_, loop, std::move(ready));
}

Result<void> Qcow2Disk::flushed(int error) const {
  if (error == 0) return {};
  return fail_errno_text(error, fmt::format("cannot flush disk '{}'", name()));
}

Result<void> Qcow2Disk::grow(std::uint64_t size) {
  TRY(resize_image(*chain_, size));
  info_.size = size;
  return {};
}

Result<void> Qcow2Disk::read(std::uint64_t offset, std::span<std::byte> target) {
  if (const int error = chain_->read(offset, target); error != 0) {
    errno = error;
    return fail_errno("cannot read disk '{}'", name());
  }
  return {};
}

Result<DataRange> Qcow2Disk::next_data(std::uint64_t offset) {
  while (offset < info_.size) {
    const auto location = chain_->locate(offset, info_.size - offset);
    if (!location) {
      return fail_errno_text(location.error(), fmt::format("cannot find the data of '{}'", name()));
    }
    const Extent& extent = location->extent;
    std::uint64_t skipped = extent.kind == Extent::Kind::zero ? extent.length : 0;
    std::uint64_t length = extent.length;
    if (skipped == 0 && chain_->is_raw_layer(location->layer)) {
      // The file at the end of the chain may have holes of its own.
      const auto data = TRY(chain_->file(location->layer).next_data(extent.host));
      skipped = data.length == 0 ? length : std::min(data.offset - extent.host, length);
      length = std::min(length, skipped + data.length);
    }
    if (skipped < length) return DataRange{offset + skipped, length - skipped};
    offset += extent.length;
  }
  return DataRange{info_.size, 0};
}

}  // namespace vmm::disk::qcow2
