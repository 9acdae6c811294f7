// Starts a process: the container's first one, in new namespaces, or another one in these.
#pragma once

#include <sys/types.h>

#include "guest-images/agent/container.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/protocol/agent.h"

namespace vmm::agent {

// What the agent holds of a process that it has started. `report` carries what the process says
// until it is the program: its terminal, or why it failed (receive_report); its end is the start.
struct Launched {
  pid_t pid = 0;
  UniqueFd pidfd;
  UniqueFd report;
  UniqueFd input, output, error;  // our ends of its pipes; empty with a terminal
};

// `cgroup`: of a directory, or -1. `container`: pidfd of the first process, where it is to be
// joined.
Result<Launched> launch(const protocol::agent::Start& start, const Places& places, int cgroup,
                        int container);

// One message of the report. All empty: the program runs.
struct Report {
  bool ended = false;
  UniqueFd terminal;
  std::optional<protocol::agent::Failed> failure;
};
Result<Report> receive_report(int report);

}  // namespace vmm::agent
