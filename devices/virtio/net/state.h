// Saved state of a virtio network device (src/hypervisor/snapshot/FORMAT.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmm::virtio {

// What the driver set by commands.
struct NetState {
  static constexpr std::string_view kKind = "virtio-net";
  static constexpr std::uint32_t kVersion = 1;
  std::vector<std::uint8_t> mac;  // six bytes, as the driver knows it
  std::uint16_t active_pairs = 1;
  std::uint64_t guest_offloads = 0;  // VIRTIO_NET_F_* bits
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, mac);
    archive(2, active_pairs);
    archive(3, guest_offloads);
  }
};

}  // namespace vmm::virtio
