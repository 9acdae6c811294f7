#include "devices/virtio/device.h"

#include <algorithm>
#include <cstring>

namespace vmm::virtio {

void Device::write_config(std::uint64_t /*offset*/, std::span<const std::byte> /*source*/) {}

void read_config_bytes(std::span<const std::byte> config, std::uint64_t offset,
                       std::span<std::byte> target) {
  std::fill(target.begin(), target.end(), std::byte{0});
  if (offset >= config.size()) return;
  const std::size_t length = std::min<std::size_t>(target.size(), config.size() - offset);
  std::memcpy(target.data(), config.data() + offset, length);
}

}  // namespace vmm::virtio
