// Takes containers away, running ones too.
#pragma once

#include <cstdint>
#include <string>

#include "src/engine/image/remove.h"
#include "src/engine/runtime/container.h"

namespace vmm::engine {

// Error: it is running, without force; another command works with its files; "No such container"
// when another command was faster.
Result<void> remove_container(const std::string& root, const Container& container, Force force);

// Kills the supervisor that does not do what it is asked for; its machine ends with it. Returns
// when the lock is free.
Result<void> end_supervisor(const std::string& directory);

std::uint64_t disk_usage(const std::string& directory);  // bytes of its files on the disk

}  // namespace vmm::engine
