// What `vmm ctl SOCKET status` and `metrics` say, as JSON texts.
#pragma once

#include <chrono>
#include <string>

#include "src/hypervisor/machine/config.h"
#include "src/hypervisor/machine/machine.h"

namespace vmm {

std::string status_json(const MachineConfig& config, Machine& machine, const std::string& state,
                        std::chrono::nanoseconds uptime, unsigned reboots);
std::string metrics_json(Machine& machine);

}  // namespace vmm
