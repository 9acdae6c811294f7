// Takes a snapshot away.
#pragma once

#include <string>

#include "src/base/result.h"

namespace vmm::snapshot {

// The manifest goes first: whatever ends the process on the way, what is left is no snapshot, and
// a second call takes the rest. Error: another one beside it builds on it, it is none, or there
// are files in the directory that no snapshot has; nothing was removed then.
Result<void> remove(const std::string& directory);

}  // namespace vmm::snapshot
