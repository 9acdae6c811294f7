// Copies of a running machine, as processes that stay.
#pragma once

#include <cstdint>
#include <string>

#include "src/base/result.h"

namespace vmm::cli {

// Saves the machine behind `socket` as the snapshot `directory` while it runs on, and starts
// `count` machines from it, in sessions of their own: DIRECTORY.forks/N.control, N.console and
// N.log. Returns when all run, with what they are as JSON; on an error none is left.
Result<std::string> fork_machine(const std::string& socket, const std::string& directory,
                                 std::uint64_t count);

}  // namespace vmm::cli
