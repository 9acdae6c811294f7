// The agent as the first process of a machine.
#pragma once

#include "src/base/result.h"

namespace vmm::agent {

inline constexpr const char* kCgroups = "/sys/fs/cgroup";

// Makes a root that containers can leave, mounts what belongs to every machine, loads modules.
Result<void> boot();
// One line on the console.
void say_on_console(const std::string& line);

}  // namespace vmm::agent
