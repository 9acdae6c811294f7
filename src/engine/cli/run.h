// What commands that start a container have in common.
#pragma once

#include <string_view>

#include "src/engine/cli/supervisor_client.h"
#include "src/engine/cli/words.h"
#include "src/engine/runtime/container_snapshot.h"

namespace vmm::engine::cli {

// In the words of `fork`, the number of a copy.
inline constexpr std::string_view kNumber = "{n}";

// A container that goes on from a snapshot when it starts.
Result<Container> make_from_snapshot(Store& store, const ContainerSnapshot& snapshot,
                                     const Words& words);
// Returns when its process runs. Error: why it does not.
Result<void> start_in_background(const Container& container);

// Says why a container did not start; the exit code.
int start_failure(std::string_view command, const Outcome& outcome);
// The exit code of a command that stayed attached.
Result<int> end_of(const Container& container, const Outcome& outcome, std::string_view command);

}  // namespace vmm::engine::cli
