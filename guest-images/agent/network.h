// Interfaces, addresses and routes of the machine, by rtnetlink (man 7 rtnetlink).
#pragma once

#include "src/base/result.h"
#include "src/protocol/agent.h"

namespace vmm::agent {

// Sets the interface up with just these addresses and routes.
Result<void> set_up_interface(const protocol::agent::Interface& interface);

}  // namespace vmm::agent
