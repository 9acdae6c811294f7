// Finds out what a disk is, and opens it.
#include <filesystem>

#include "devices/backend/disk/magic_guard.h"
#include "devices/backend/disk/qcow2/create.h"
#include "devices/backend/disk/qcow2/qcow2_disk.h"
#include "devices/backend/disk/raw_disk.h"

namespace vmm::disk {
namespace {

// A qcow2 layer over the disk, beside it, which goes with its last descriptor.
Result<std::unique_ptr<Disk>> open_scratch(const DiskConfig& config) {
  DiskConfig below = config;
  below.read_only = true;
  if (below.format == ImageFormat::automatic) {
    below.format = TRY(qcow2::probe_format(config.path));
  }
  const std::uint64_t size = TRY(qcow2::Chain::open(below))->size();
  std::error_code error;
  const auto base = std::filesystem::absolute(config.path, error);
  auto layer = open_unnamed_file(base.parent_path().string());
  if (!layer) return fail("disk '{}': {}", config.path, layer.error().message());
  if (const auto made = qcow2::write_empty_image(
          layer->get(),
          {.size = size, .backing_path = base.string(), .backing_format = below.format});
      !made) {
    return fail("disk '{}': {}", config.path, made.error().message());
  }
  DiskConfig top = config;
  top.path = fmt::format("/proc/self/fd/{}", layer->get());
  top.label = config.path;
  top.format = ImageFormat::qcow2;
  return TRY(qcow2::Qcow2Disk::open(top));
}

}  // namespace

Result<std::unique_ptr<Disk>> open_disk(const DiskConfig& config) {
  if (config.scratch) return open_scratch(config);
  ImageFormat format = config.format;
  if (format == ImageFormat::automatic) format = TRY(qcow2::probe_format(config.path));
  if (format == ImageFormat::qcow2) return TRY(qcow2::Qcow2Disk::open(config));
  auto disk = TRY(RawDisk::open(config));
  if (config.format == ImageFormat::raw || config.read_only) return disk;
  return std::make_unique<MagicGuard>(std::move(disk));
}

}  // namespace vmm::disk
