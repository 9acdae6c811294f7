// What `vmm --restore PATH` makes a machine from: the configuration in the snapshot, and what the
// command line says otherwise.
#pragma once

#include <span>
#include <string>

#include "src/base/result.h"
#include "src/cli/config/machine_options.h"
#include "src/hypervisor/snapshot/source.h"

namespace vmm::config {

// The options of the restored machine. Name, control socket, console and vsock path belong to the
// original and are not taken over; what cannot change (memory, vCPUs, kernel) is refused.
Result<MachineOptions> restored_options(const snapshot::Source& snapshot,
                                        const MachineOptions& overrides);
// to_config() of them, with the disks of the snapshot. `disk_copies`: none, or for each disk that
// the snapshot has a copy of, where the machine's own is to be made and kept.
Result<MachineConfig> restored_config(const snapshot::Source& snapshot,
                                      const MachineOptions& options,
                                      std::span<const std::string> disk_copies = {});

}  // namespace vmm::config
