// ConfigPorts: the older way to the configuration space, by an address and a data port
// (PCI Local Bus 3.0, 3.2.2.3.2). Kernels look for it before they have read the ACPI tables that
// tell of ECAM, and complain when there is nothing.
#pragma once

#include <cstdint>
#include <mutex>

#include "devices/pci/host.h"
#include "src/hypervisor/bus/io_handler.h"

namespace vmm::pci {

class ConfigPorts : public IoHandler {
 public:
  static constexpr std::uint64_t kBase = 0xcf8;
  static constexpr std::uint64_t kSize = 8;
  static constexpr std::uint32_t kAddressSize = 4;  // the data port is behind it

  explicit ConfigPorts(PciHost& host) : host_(host) {}
  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

  // While no vCPU runs.
  ConfigPortsState save() const { return {address_}; }
  void restore(const ConfigPortsState& state) { address_ = state.address; }

 private:
  // Where in ECAM the data port points to now; nothing while it is off.
  std::optional<std::uint64_t> target(std::uint64_t offset);

  PciHost& host_;
  std::mutex mutex_;
  std::uint32_t address_ = 0;
};

}  // namespace vmm::pci
