// What commands that start a container have in common.
#pragma once

#include <string_view>

#include "src/engine/cli/supervisor_client.h"

namespace vmm::engine::cli {

// Says why a container did not start; the exit code.
int start_failure(std::string_view command, const Outcome& outcome);
// The exit code of a command that stayed attached.
Result<int> end_of(const Container& container, const Outcome& outcome, std::string_view command);

}  // namespace vmm::engine::cli
