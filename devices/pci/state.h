// Saved states of PCI functions (src/hypervisor/snapshot/FORMAT.md).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace vmm::pci {

struct FunctionState {
  static constexpr std::string_view kKind = "pci-function";
  static constexpr std::uint32_t kVersion = 1;
  std::vector<std::uint8_t> config;  // the configuration space, all of it
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, config);
  }
};

struct MsixEntryState {
  std::uint32_t address_low = 0;
  std::uint32_t address_high = 0;
  std::uint32_t data = 0;
  std::uint32_t control = 1;
  bool pending = false;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, address_low);
    archive(2, address_high);
    archive(3, data);
    archive(4, control);
    archive(5, pending);
  }
};

struct MsixState {
  std::vector<MsixEntryState> entries;
  bool enabled = false;
  bool function_masked = false;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, entries);
    archive(2, enabled);
    archive(3, function_masked);
  }
};

// The host bridge, and the address register at port 0xcf8.
struct HostState {
  static constexpr std::string_view kKind = "pci-host";
  static constexpr std::uint32_t kVersion = 1;
  FunctionState bridge;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, bridge);
  }
};

struct ConfigPortsState {
  static constexpr std::string_view kKind = "pci-config-ports";
  static constexpr std::uint32_t kVersion = 1;
  std::uint32_t address = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, address);
  }
};

}  // namespace vmm::pci
