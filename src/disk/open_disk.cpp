// Finds out what a disk is, and opens it.
#include <fcntl.h>

#include <filesystem>

#include "src/disk/magic_guard.h"
#include "src/disk/qcow2/chain.h"
#include "src/disk/qcow2/create.h"
#include "src/disk/qcow2/qcow2_disk.h"
#include "src/disk/raw_disk.h"
#include "src/disk/vmdk/flat_disk.h"

namespace vmm::disk {
namespace {

Result<std::unique_ptr<Disk>> open_format(const DiskConfig& config, ImageFormat format) {
  if (format == ImageFormat::qcow2) return TRY(qcow2::Qcow2Disk::open(config));
  if (format == ImageFormat::vmdk) return TRY(vmdk::FlatDisk::open(config));
  auto disk = TRY(RawDisk::open(config));
  if (config.format == ImageFormat::raw || config.read_only) return disk;
  return std::make_unique<MagicGuard>(std::move(disk));
}

}  // namespace

Result<UniqueFd> open_scratch(DiskConfig& config) {
  if (config.format == ImageFormat::vmdk) {
    return fail("disk '{}': a VMDK can only be read: say ',ro' in place of ',scratch'",
                config.path);
  }
  DiskConfig below = config;
  below.read_only = true;
  if (below.format == ImageFormat::automatic) {
    below.format = TRY(qcow2::probe_format(config.path));
  }
  const std::uint64_t size = TRY(qcow2::Chain::open(below))->size();
  std::error_code error;
  const auto base = std::filesystem::absolute(config.path, error);
  const qcow2::CreateOptions options{.path = config.layer,
                                     .size = size,
                                     .backing_path = base.string(),
                                     .backing_format = below.format};
  if (config.label.empty()) config.label = config.path;
  UniqueFd file;
  if (!config.layer.empty()) {
    TRY(qcow2::create_image(options));
    file = TRY(open_file(config.layer, O_RDONLY));
    config.path = config.label = config.layer;
  } else {
    auto unnamed = open_unnamed_file(base.parent_path().string());
    if (!unnamed) return fail("disk '{}': {}", config.path, unnamed.error().message());
    file = std::move(*unnamed);
    if (const auto made = qcow2::write_empty_image(file.get(), options); !made) {
      return fail("disk '{}': {}", config.path, made.error().message());
    }
    config.path = fmt::format("/proc/self/fd/{}", file.get());
  }
  config.format = ImageFormat::qcow2;
  config.scratch = false;
  return file;
}

Result<std::unique_ptr<Disk>> open_disk(const DiskConfig& config) {
  if (config.scratch) {
    DiskConfig layer = config;
    const auto file = TRY(open_scratch(layer));
    return open_disk(layer);
  }
  ImageFormat format = config.format;
  if (format == ImageFormat::automatic) format = TRY(qcow2::probe_format(config.path));
  auto disk = TRY(open_format(config, format));
  if (disk->info().size > kMaxDiskSize) {
    return fail("disk '{}' has {} bytes, which is too large: expected at most {}", disk->name(),
                disk->info().size, kMaxDiskSize);
  }
  return disk;
}

}  // namespace vmm::disk
