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
#include <vector>

#include "devices/virtio/device.h"
#include "devices/virtio/slot.h"
#include "src/base/event_loop.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/machine/config.h"
#include "src/hypervisor/memory/guest_memory.h"
#include "src/spec/fields.h"

namespace vmm {

// A file that outlives a machine whose guest resets.
struct KeptFile {
  UniqueFd file;
  std::string made;  // its path, if it was not there before; empty: it has none
};

// What a machine that is restored is connected to.
struct Reconnection {
  const MachineConfig& given;     // what the person says
  const MachineConfig& attached;  // what the snapshot notes
  // The same machine again, which is connected to what is noted; false: a copy, which is connected
  // to what the person says alone.
  bool same = false;
  std::string_view snapshot;  // its path, for messages
  // Takes what the snapshot notes and nobody says, with the option that connects it: "vsock to '/v'
  // (--vsock)".
  std::vector<std::string>& unconnected;
};

// What devices are made with; all of it outlives them.
struct DeviceResources {
  GuestMemory& memory;
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
  // The keys of that option, of a new component in `config`. Null: its own text says them.
  spec::Fields (*keys)(MachineConfig& config) = nullptr;
  // How many the machine has.
  std::size_t (*count)(const MachineConfig& config);
  // Device `index` of those. `name` names threads and log lines.
  Result<std::unique_ptr<virtio::Device>> (*make)(const MachineConfig& config, std::size_t index,
                                                  const std::string& name,
                                                  const DeviceResources& resources);
  // Of a kind whose devices may be slots: what they are connected to changes while the machine is
  // there. `index` as above, and `device` is what `make` made of it.
  struct Slots {
    enum class State : std::uint8_t { fixed, empty, filled };
    std::string_view how_to_be_one;  // for a message
    State (*state)(const MachineConfig& config, std::size_t index);
    // What the configuration says then; no file is looked at, which may take its time.
    // `attachment`: the keys of the option, or its words.
    Result<void> (*fill)(MachineConfig& config, std::size_t index, const spec::Value& attachment);
    void (*clear)(MachineConfig& config, std::size_t index);
    // Opens what the configuration says, and did not say `before`, beside the device's work.
    Result<std::unique_ptr<virtio::SlotChange>> (*prepare)(const MachineConfig& before,
                                                           const MachineConfig& config,
                                                           std::size_t index,
                                                           virtio::Device& device);
    // Null: it has no size.
    Result<std::unique_ptr<virtio::SlotChange>> (*prepare_resize)(const MachineConfig& config,
                                                                  std::size_t index,
                                                                  virtio::Device& device,
                                                                  std::uint64_t size) = nullptr;
    // Ports of the host that reach the guest, in the words of the option. Null: it has none.
    struct Ports {
      // What the configuration says with them, or without; nothing is opened. As publish() has
      // them, and unpublish() the host's end of each.
      Result<void> (*publish)(MachineConfig& config, std::size_t index,
                              const std::vector<std::string>& ports);
      Result<void> (*unpublish)(MachineConfig& config, std::size_t index,
                                const std::vector<std::string>& ports);
      // Opens those that the configuration says.
      Result<std::unique_ptr<virtio::SlotChange>> (*prepare)(const MachineConfig& config,
                                                             std::size_t index,
                                                             virtio::Device& device);
    };
    const Ports* ports = nullptr;
  };
  const Slots* slots = nullptr;  // null: none
  // The path of the socket that its device makes on the host, or empty. Null: it makes none.
  std::string (*socket)(const MachineConfig& config) = nullptr;

  // The rest is what a configuration as a whole needs of a kind; null: nothing.

  // All paths of the host that are said, some of which may be empty.
  std::vector<std::string*> (*paths)(MachineConfig& config) = nullptr;
  // Takes out what is said and is no device.
  void (*tidy)(MachineConfig& config) = nullptr;
  // Of a machine that boots: what is wrong with its devices beside one another.
  Result<void> (*check)(const MachineConfig& config) = nullptr;
  // What was not given, and is kept when the guest resets.
  void (*make_up)(MachineConfig& config) = nullptr;
  // Opens what outlives the machine, and has `config` name it. What was made before an error is in
  // `files` as well.
  Result<void> (*open_kept)(MachineConfig& config, std::vector<KeptFile>& files) = nullptr;
  // For the kernel's command line.
  std::string (*kernel_words)(const MachineConfig& config) = nullptr;
  // Of a snapshot that has the device's state and no key for it.
  void (*add_unsaid)(MachineConfig& config) = nullptr;
  // `config` is what the guest sees, of the same machine with what is noted. Null: it has
  // nothing on the host. What disks are restored from the snapshot has itself.
  Result<void> (*reconnect)(const Reconnection& to, MachineConfig& config) = nullptr;
  // What a copy made by a person of their own running machine is connected to, as they would give
  // it.
  void (*give_own)(const MachineConfig& guest, const MachineConfig& attached,
                   MachineConfig& given) = nullptr;
};

// "blk1", "vsock".
std::string name_of(const DeviceKind& kind, std::size_t index);

// In the order of the PCI slots.
std::span<const DeviceKind> device_kinds();

}  // namespace vmm
