// A process that outlives its parent: nobody's child, in a session of its own, with nothing of the
// parent's but one descriptor.
#pragma once

#include <functional>
#include <string>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm::engine {

// Runs `work` in it, with a copy of `kept` (-1: none), and ends it by its result. `name`: as ps(1)
// shows it, at most 15 bytes.
Result<void> start_detached(const std::string& name, int kept,
                            const std::function<bool(UniqueFd kept)>& work);

}  // namespace vmm::engine
