// What `vmm --restore PATH` makes a machine from: the configuration in the snapshot, and what the
// command line says otherwise.
#pragma once

#include "src/base/result.h"
#include "src/cli/config/machine_options.h"
#include "src/hypervisor/snapshot/source.h"

namespace vmm::config {

// The options of the restored machine. Name, control socket, console and vsock path belong to the
// original and are not taken over; what cannot change (memory, vCPUs, kernel, disks) is refused.
Result<MachineOptions> restored_options(const snapshot::Source& snapshot,
                                        const MachineOptions& overrides);
// to_config() of them, with the disks of the snapshot.
Result<MachineConfig> restored_config(const snapshot::Source& snapshot,
                                      const MachineOptions& options);

}  // namespace vmm::config
