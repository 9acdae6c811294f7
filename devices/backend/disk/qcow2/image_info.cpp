#include "devices/backend/disk/qcow2/image_info.h"

#include <sys/stat.h>

#include "devices/backend/disk/qcow2/chain.h"

namespace vmm::disk::qcow2 {

Result<ImageInfo> describe_image(const std::string& path, ImageFormat format) {
  DiskConfig config;
  config.path = path;
  config.format = format;
  config.read_only = true;
  ImageInfo info;
  {
    const auto alone = TRY(Chain::open(config, Chain::Follow::none));
    info.path = path;
    info.size = alone->size();
    info.format = alone->is_raw() ? ImageFormat::raw : ImageFormat::qcow2;
    struct stat status{};
    if (::fstat(alone->file(0).fd(), &status) == 0) {
      info.space = static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
    if (alone->is_raw()) return info;
    info.header = alone->top().header();
    info.dirty = (info.header.incompatible & kIncompatibleDirty) != 0;
    info.damaged = (info.header.incompatible & kIncompatibleCorrupt) != 0;
  }
  const auto chain = Chain::open(config);
  if (!chain) {
    info.backing_error = chain.error().message();
    return info;
  }
  const auto layers = (*chain)->describe();
  for (std::size_t i = 1; i < layers.size(); ++i) {
    info.backing.push_back({layers[i].path, layers[i].format});
  }
  return info;
}

}  // namespace vmm::disk::qcow2
