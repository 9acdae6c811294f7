// The kinds of devices that a machine may have: the one table of them. Everything else, from the
// options to the control socket, goes over its rows or over the devices made from them
// (devices/README.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "devices/virtio/device.h"
#include "src/base/event_loop.h"
#include "src/base/result.h"
#include "src/hypervisor/machine/config.h"
#include "src/hypervisor/memory/guest_memory.h"
#include "src/spec/fields.h"

namespace vmm {

// What devices are made with; all of it outlives them.
struct DeviceResources {
  const GuestMemory& memory;
  EventLoop& loop;  // for devices that have little to do
};

struct DeviceKind {
  enum class Number : std::uint8_t {
    one,   // at most; its device is called `name`: "vsock"
    many,  // they are numbered from zero: "blk0", "blk1", ...
  };
  std::string_view name;
  Number number = Number::one;
  // Under which key `status` has what its devices say of themselves: a list for `many`, which may
  // be empty; an object for `one` if the machine has it.
  std::string_view status_key;
  // Its key in a machine's configuration, which is its option as well.
  void (*declare)(MachineConfig& config, spec::Fields& fields);
  // How many the machine has.
  std::size_t (*count)(const MachineConfig& config);
  // Device `index` of those. `name` names threads and log lines.
  Result<std::unique_ptr<virtio::Device>> (*make)(const MachineConfig& config, std::size_t index,
                                                  const std::string& name,
                                                  const DeviceResources& resources);
};

// In the order of the PCI slots.
std::span<const DeviceKind> device_kinds();

}  // namespace vmm
