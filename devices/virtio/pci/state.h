// Saved state of a virtio PCI transport (src/hypervisor/snapshot/FORMAT.md).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "devices/pci/state.h"

namespace vmm::virtio {

struct QueueState {
  std::uint16_t size = 0;
  std::uint64_t descriptors = 0;  // guest addresses
  std::uint64_t avail = 0;
  std::uint64_t used = 0;
  std::uint16_t vector = 0xffff;
  bool enabled = false;
  // Where the device is in the rings; of an active device.
  std::uint16_t next_avail = 0;
  std::uint16_t next_used = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, size);
    archive(2, descriptors);
    archive(3, avail);
    archive(4, used);
    archive(5, vector);
    archive(6, enabled);
    archive(7, next_avail);
    archive(8, next_used);
  }
};

struct TransportState {
  static constexpr std::string_view kKind = "virtio-pci";
  static constexpr std::uint32_t kVersion = 1;
  pci::FunctionState function;
  pci::MsixState msix;
  std::uint8_t status = 0;
  std::uint8_t isr = 0;
  std::uint8_t generation = 0;
  std::uint16_t config_vector = 0xffff;
  std::uint32_t device_feature_select = 0;
  std::uint32_t driver_feature_select = 0;
  std::uint64_t driver_features = 0;
  std::uint16_t queue_select = 0;
  bool active = false;
  std::vector<QueueState> queues;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, function);
    archive(2, msix);
    archive(3, status);
    archive(4, isr);
    archive(5, generation);
    archive(6, config_vector);
    archive(7, device_feature_select);
    archive(8, driver_feature_select);
    archive(9, driver_features);
    archive(10, queue_select);
    archive(11, active);
    archive(12, queues);
  }
};

}  // namespace vmm::virtio
