// Supervisor: the process that a running container has on the host. It starts the machine, has the
// agent start the container's first process, keeps its log, passes its streams to whoever attached,
// and writes its end.
//
//   taking the lock -> machine starts -> agent answers -> root mounted -> process started
//     -> outputs drained, process ended -> machine ends -> end written, lock given up -> Exited
//     told
//
// Each connection to its socket speaks wire.h. Output waits for the slowest of those who attached:
// nothing is dropped and no buffer grows.
#pragma once

#include <string>
#include <string_view>

#include "src/base/unique_fd.h"

namespace vmm::engine {

// The end of what a second supervisor of a container says.
inline constexpr std::string_view kAlreadyRunning = "is already running";

// In a process of its own, no child of this one's, and for the store at `root`. Returns the first
// connection to it. The caller has no store open: a database does not survive fork().
Result<UniqueFd> start_supervisor(const std::string& root, const std::string& id);

}  // namespace vmm::engine
