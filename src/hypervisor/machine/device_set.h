// DeviceSet: the virtio devices of a machine, each with its PCI transport.
//
// A kind of device is added in one place: a function in device_set.cpp that looks at its part of
// the configuration, and its name in the list there. Nobody else knows the kinds.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "devices/pci/host.h"
#include "devices/virtio/device.h"
#include "devices/virtio/pci/transport.h"
#include "src/base/event_loop.h"
#include "src/base/result.h"
#include "src/hypervisor/bus/interrupt.h"
#include "src/hypervisor/machine/config.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm {

// What devices are made with; all of it outlives them.
struct DeviceContext {
  const GuestMemory& memory;
  MsiSink& messages;
  DoorbellRegistry& doorbells;
  EventLoop& loop;  // for devices that have little to do
};

class DeviceSet {
 public:
  // Opens the backends: errors are sentences about files, taps and sockets.
  static Result<std::unique_ptr<DeviceSet>> create(const MachineConfig& config,
                                                   const DeviceContext& context,
                                                   const MemoryRange& pci_window);
  ~DeviceSet();

  // Waits for what the devices started and left to itself: a user network's process got ready, or
  // not, while the rest was assembled.
  Result<void> wait_ready();

  // Deactivates all; requests in flight are finished first.
  void stop();

  // While no vCPU runs: all stop with their requests finished, and go on.
  void suspend();
  void resume();
  // While suspended; restore() in a fresh set, which is suspended then. Errors name the device.
  void save(state::Sections& sections);
  Result<void> restore(state::Sections& sections);

  pci::PciHost& pci() { return pci_; }

  // For the functions in device_set.cpp. `name` is unique: "blk0".
  Result<void> add(std::string name, std::unique_ptr<virtio::Device> device);

  template <typename F>
  void for_each(F visit) const {
    for (const auto& entry : entries_) visit(entry.name, *entry.device);
  }
  // The device of that name, null when there is none or it is of another kind.
  template <typename T>
  T* find(std::string_view name) const {
    for (const auto& entry : entries_) {
      if (entry.name == name) return dynamic_cast<T*>(entry.device.get());
    }
    return nullptr;
  }

 private:
  struct Entry {
    std::string name;
    std::unique_ptr<virtio::Device> device;
    std::unique_ptr<virtio::PciTransport> transport;
  };
  DeviceSet(const DeviceContext& context, const MemoryRange& pci_window)
      : context_(context), pci_(pci_window) {}

  const DeviceContext context_;
  pci::PciHost pci_;
  std::vector<Entry> entries_;
};

}  // namespace vmm
