#include "src/disk/qcow2/data_size.h"

namespace vmm::disk::qcow2 {

std::expected<std::uint64_t, int> data_size(Chain& disk, Progress& progress) {
  progress.begin("measuring", 0);
  std::uint64_t data = 0;
  for (std::uint64_t offset = 0; offset < disk.size();) {
    const auto location = disk.locate_data(offset, disk.size() - offset);
    if (!location) return std::unexpected(location.error());
    if (location->extent.kind != Extent::Kind::zero) data += location->extent.length;
    offset += location->extent.length;
    if (!progress.advance(0)) return std::unexpected(kCancelled);
  }
  return data;
}

}  // namespace vmm::disk::qcow2
