// Copies of a running machine, as processes that stay.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "src/base/progress.h"
#include "src/base/result.h"

namespace vmm::cli {

// Saves the machine behind `socket` as the snapshot `directory` while it runs on, and starts
// `count` machines from it, in sessions of their own: DIRECTORY.forks/N.control, N.console and
// N.log. Returns when all run, with what they are as JSON; on an error none is left.
//
// `options`: keys and words of what the copies are connected to, instead of what own_connections()
// says for the same key. In the words {n} is the copy's number. They are looked at before anything
// is saved.
//
// Cancelled by `work`, the snapshot is gone as well.
using CopyOptions = std::vector<std::pair<std::string, std::string>>;
Result<std::string> fork_machine(const std::string& socket, const std::string& directory,
                                 std::uint64_t count, const CopyOptions& options, Progress& work);

}  // namespace vmm::cli
