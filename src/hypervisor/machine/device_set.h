// DeviceSet: the virtio devices of a machine, each with its PCI transport.
//
// Which devices there may be is in one table, device_kinds.cpp. Nobody else knows the kinds.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "devices/pci/host.h"
#include "devices/virtio/device.h"
#include "devices/virtio/pci/transport.h"
#include "src/base/event_loop.h"
#include "src/base/named_values.h"
#include "src/base/result.h"
#include "src/hypervisor/bus/interrupt.h"
#include "src/hypervisor/machine/config.h"
#include "src/hypervisor/machine/waits.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm {

// What devices are made with; all of it outlives them.
struct DeviceContext {
  GuestMemory& memory;  // devices may add windows to it
  MsiSink& messages;
  DoorbellRegistry& doorbells;
  EventLoop& loop;  // for devices that have little to do
};

struct DeviceKind;

class DeviceSet {
 public:
  // Opens the backends: errors are sentences about files, taps and sockets, of all that do not
  // open.
  static Result<std::unique_ptr<DeviceSet>> create(const MachineConfig& config,
                                                   const DeviceContext& context,
                                                   const MemoryRange& pci_window);
  ~DeviceSet();

  // Waits for what the devices started and left to itself: a user network's process got ready, or
  // not, while the rest was assembled.
  Result<void> wait_ready();

  // Who is told while a device is waited for.
  void tell_waits(std::shared_ptr<Waits> waits) { waits_ = std::move(waits); }

  // Deactivates all; requests in flight are finished first.
  void stop();

  // While no vCPU runs: all stop with their requests finished, and go on.
  void suspend();
  void resume();
  // Null: there is none of that name. Any thread.
  virtio::Device* find(std::string_view name) const;
  // What a slot is connected to: made when its requests are finished. By one thread at a time, as
  // all of these.
  Result<void> change(std::string_view name, virtio::SlotChange& change);

  // While suspended; restore() in a fresh set, which is suspended then. Errors name the device.
  void save(state::Sections& sections);
  Result<void> restore(state::Sections& sections);

  pci::PciHost& pci() { return pci_; }

  // What each device has done, by the device's name; may wait a moment for the guest.
  NamedValues metrics();
  // What the devices say of themselves, by the status key of their kind.
  NamedValues status() const;
  // The first one that has it; null: none has.
  virtio::MemoryTarget* memory_target() const;

  template <typename F>
  void for_each(F visit) const {
    for (const auto& entry : entries_) visit(entry.name, *entry.device);
  }

 private:
  struct Entry {
    const DeviceKind* kind;
    std::string name;
    std::unique_ptr<virtio::Device> device;
    std::unique_ptr<virtio::PciTransport> transport;
  };
  DeviceSet(const DeviceContext& context, const MemoryRange& pci_window)
      : context_(context), pci_(pci_window) {}

  Result<void> add(const DeviceKind& kind, std::string name,
                   std::unique_ptr<virtio::Device> device);

  const DeviceContext context_;
  pci::PciHost pci_;
  std::vector<Entry> entries_;
  std::shared_ptr<Waits> waits_ = std::make_shared<Waits>();
};

}  // namespace vmm
