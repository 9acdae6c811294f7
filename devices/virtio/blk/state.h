// Saved state of a virtio block device (src/hypervisor/snapshot/FORMAT.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmm::virtio {

// What its driver read once and counts on.
struct BlockState {
  static constexpr std::string_view kKind = "virtio-blk";
  static constexpr std::uint32_t kVersion = 1;
  std::uint64_t size = 0;  // bytes
  std::uint32_t block_size = 0;
  std::string serial;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, size);
    archive(2, block_size);
    archive(3, serial);
  }
};

}  // namespace vmm::virtio
