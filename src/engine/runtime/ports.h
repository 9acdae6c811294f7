// Ports of the host, for containers.
#pragma once

#include <vector>

#include "src/engine/runtime/spec.h"

namespace vmm::engine {

// Gives each port without one of the host's a free one.
Result<void> choose_host_ports(std::vector<PublishedPort>& ports);

// Error: "Bind for 0.0.0.0:8080 failed: port is already allocated". Of what another process takes
// between this and the machine's start, the machine says the same in its own words.
Result<void> check_host_ports(const std::vector<PublishedPort>& ports);

}  // namespace vmm::engine
