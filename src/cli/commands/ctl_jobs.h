// The commands of `vmm ctl` that go on for a while: a job with its progress, events, `wait`.
#pragma once

#include <string>

#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/cli/help/page.h"
#include "src/protocol/control.h"

namespace vmm::cli {

// Begins the job, shows how far it is, as `progress` (auto, plain, none) says, and waits for its
// result. Ctrl-C cancels it; `undone` says what did not come about then. A machine of an older
// program is asked as before, without progress.
Result<std::string> run_job(const std::string& socket, const protocol::Snapshot& request,
                            const std::string& progress, const std::string& undone);

// The same as a part of other work, which shows how far it is and may be cancelled.
Result<std::string> run_job(const std::string& socket, const protocol::Snapshot& request,
                            Progress& progress);

// Prints events, a line each, until the machine ends. Error: it went without an end.
Result<void> print_events(const std::string& socket);

// One request of version 2; the answer.
Result<std::string> ask_once(const std::string& socket, const protocol::Command& command);

// What `events` prints.
Section events_section();

}  // namespace vmm::cli
