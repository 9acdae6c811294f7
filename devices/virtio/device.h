// Device: what a kind of virtio device implements; the transport (pci/) does the rest.
//
// Life of a device:
//
//   created --activate()--> active --deactivate()--> created --activate()--> ...
//
// The transport owns the registers, the status and the feature negotiation. On DRIVER_OK it moves
// the queues in; on reset, and before the machine stops or is saved, it takes them back.
// suspend() is a deactivate() after which the guest goes on as if nothing had been: what its driver
// set, and what connects the device with the outside, stays for an activate() with `resumed` set.
// activate(), deactivate(), suspend(), save(), restore(), read_config() and write_config() are
// called by one thread at a time, though not always by the same; the device serves its queues on
// threads of its own choice.
//
// A guest that breaks the rules gets a device that needs reset (Interrupts::needs_reset), and the
// device leaves its queues alone until then. It never ends the monitor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "devices/virtio/queue.h"
#include "src/base/event_fd.h"
#include "src/base/named_values.h"
#include "src/base/result.h"
#include "src/hypervisor/bus/interrupt.h"
#include "src/hypervisor/state/sections.h"

namespace vmm::disk {
class CopiedDisk;
}

namespace vmm::virtio {

// Device types (virtio 1.2, chapter 5).
enum class DeviceType : std::uint16_t {
  net = 1,
  block = 2,
  console = 3,
  entropy = 4,
  balloon = 5,
  vsock = 19,
  fs = 26,
  pmem = 27,
};

// The device's way to the guest, implemented by the transport. Any thread.
class Interrupts {
 public:
  virtual ~Interrupts() = default;
  // The driver wants to know of buffers used in queue `queue`.
  virtual void queue_used(std::uint16_t queue) = 0;
  // A field of the configuration space changed.
  virtual void config_changed() = 0;
  // The guest broke the rules, or the device cannot go on: sets DEVICE_NEEDS_RESET. `reason` is
  // logged, at a limited rate.
  virtual void needs_reset(std::string_view reason) = 0;
  // An eventfd that interrupts for `queue` without passing through this process (vhost). Lives
  // until the device is deactivated.
  virtual Result<int> queue_event_fd(std::uint16_t queue) = 0;
};

// A queue that the driver enabled, with the descriptor that it is kicked through. The eventfd
// belongs to the transport and outlives the activation.
struct ActiveQueue {
  Queue queue;
  const EventFd* kick = nullptr;
};

struct Activation {
  std::uint64_t features = 0;  // negotiated
  // One a queue of the device, empty where the driver did not enable it.
  std::vector<std::optional<ActiveQueue>> queues;
  Interrupts* interrupts = nullptr;  // outlives the activation
  bool resumed = false;              // after suspend(), or after restore() in a new device
};

// Takes memory from the guest. Any thread.
class MemoryTarget {
 public:
  virtual ~MemoryTarget() = default;
  // What the guest is to give up. Error: more than the machine has.
  virtual Result<void> set_target(std::uint64_t bytes) = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual DeviceType type() const = 0;
  // Offered features of this kind of device, and the ring features that it can serve
  // (kFeatureEventIdx, kFeatureIndirectDescriptors). The transport adds VERSION_1.
  virtual std::uint64_t features() const = 0;
  // The largest size of each queue, in the order of the specification; at most kMaxQueueSize.
  virtual std::vector<std::uint16_t> queue_sizes() const = 0;

  // The device configuration space: little endian, reads past its end give zeroes.
  virtual void read_config(std::uint64_t offset, std::span<std::byte> target) const = 0;
  // Ignored by devices without writable fields.
  virtual void write_config(std::uint64_t offset, std::span<const std::byte> source);

  // Takes the queues and starts to serve them. An error leaves the device inactive.
  virtual Result<void> activate(Activation activation) = 0;
  // Stops serving, waits for requests in flight, returns the queues (in the order of the
  // activation). No interrupt is raised after it returns.
  virtual std::vector<std::optional<Queue>> deactivate() = 0;
  virtual std::vector<std::optional<Queue>> suspend() { return deactivate(); }

  // What this kind of device keeps beside its queues, as one section of that name; while suspended
  // or never activated. restore() in a new device, before its first activation; an error when this
  // device is not like the one that was saved.
  virtual void save(state::Sections& sections, std::string_view name) const = 0;
  virtual Result<void> restore(state::Sections& sections, std::string_view name) = 0;
  // What to do when a restored driver uses features that this device does not have, for a message;
  // empty: nothing is known.
  virtual std::string_view feature_advice() const { return {}; }

  // The rest is for the machine's owner, on one thread that is not the device's own.

  // Waits for what was started and left to itself: the process of a network. Once, before the guest
  // runs; the error says why it is of no use.
  virtual Result<void> wait_ready() { return {}; }
  // What it has done since it was made: `vmm ctl ... metrics`. A device that asks its guest waits
  // a moment for the answer.
  virtual NamedValues metrics() = 0;
  // What it is: its part of `vmm ctl ... status`; nothing when there is nothing to say.
  virtual NamedValues status() const { return {}; }
  // What it can do beside, null where it cannot: asked by the snapshot and the control socket,
  // which know no kinds. What a snapshot copies of it. Called while suspended, as a device may put
  // it around its disk.
  virtual disk::CopiedDisk* copied_disk() { return nullptr; }
  virtual MemoryTarget* memory_target() { return nullptr; }
};

// read_config for a device whose configuration is one packed structure.
void read_config_bytes(std::span<const std::byte> config, std::uint64_t offset,
                       std::span<std::byte> target);

}  // namespace vmm::virtio
