// Saved state of a virtio entropy device (src/hypervisor/snapshot/FORMAT.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmm::virtio {

// Nothing: it says that there is such a device.
struct RngState {
  static constexpr std::string_view kKind = "virtio-rng";
  static constexpr std::uint32_t kVersion = 1;
  template <typename Archive>
  void fields(Archive&) {}
};

}  // namespace vmm::virtio
