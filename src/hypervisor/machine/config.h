// MachineConfig: all that a person says about a machine, as plain typed fields. Options and the
// configuration file both end here (src/cli/config), the machine is assembled from it alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "devices/backend/chardev/chardev_config.h"
#include "devices/virtio/net/config.h"
#include "devices/virtio/pmem/config.h"
#include "devices/virtio/vsock/config.h"
#include "src/disk/disk_config.h"

namespace vmm {

struct MachineConfig {
  std::string name;    // shown in status; empty: none
  std::string kernel;  // path of a bzImage or vmlinux; empty: restored, and the snapshot's
  std::string initrd;  // path, or empty
  std::string append;  // words behind the default command line
  std::uint64_t memory = 512u << 20;  // bytes
  unsigned cpus = 1;
  std::vector<disk::DiskConfig> disks;
  std::vector<virtio::NetConfig> nets;
  std::optional<virtio::VsockConfig> vsock;
  bool balloon = false;
  bool rng = false;
  std::vector<virtio::PmemConfig> pmems;
  chardev::SerialSpec serial;
  std::string control;  // path of the control socket, or empty
  bool reboot = true;   // false: a reset of the guest ends the program
  friend bool operator==(const MachineConfig&, const MachineConfig&) = default;
};

// Those that were not given, which it keeps: when its guest reboots, and when it is resumed.
void make_up_addresses(MachineConfig& machine);

// Every key of a machine: options of the command line have its names, too, and one that is on by
// itself the option --no-NAME.
spec::Fields fields_of(MachineConfig& machine);

}  // namespace vmm
