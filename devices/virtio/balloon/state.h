// Saved state of a virtio balloon (src/hypervisor/snapshot/FORMAT.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmm::virtio {

struct BalloonState {
  static constexpr std::string_view kKind = "virtio-balloon";
  static constexpr std::uint32_t kVersion = 1;
  std::uint32_t target_pages = 0;  // of 4 KiB: what the guest is to give up
  std::uint32_t actual_pages = 0;  // what it says that it gave up
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, target_pages);
    archive(2, actual_pages);
  }
};

}  // namespace vmm::virtio
