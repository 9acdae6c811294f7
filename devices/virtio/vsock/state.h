// Saved state of a virtio socket device (src/hypervisor/snapshot/FORMAT.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmm::virtio {

// Connections are not kept: the driver of a restored guest is told that all ended.
struct VsockState {
  static constexpr std::string_view kKind = "virtio-vsock";
  static constexpr std::uint32_t kVersion = 1;
  std::uint32_t cid = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, cid);
  }
};

}  // namespace vmm::virtio
