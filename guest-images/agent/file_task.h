// Work with the files of the container, of which the image and what was changed are the agent's own
// mounts: those of the container are not seen, and no process of it is in the way.
#pragma once

#include "guest-images/agent/container.h"
#include "src/base/result.h"
#include "src/protocol/agent.h"

namespace vmm::agent {

// Blocking; reads `input` and writes `output` as src/protocol/files.h has it.
Result<void> run_file_task(const protocol::agent::FileTask& task, const Places& places, int input,
                           int output);

}  // namespace vmm::agent
