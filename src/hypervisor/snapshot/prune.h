// Takes away what killed saves, imports and exports left.
#pragma once

#include <string>
#include <vector>

#include "src/base/result.h"

namespace vmm::snapshot {

struct Pruned {
  std::vector<std::string> removed;  // names in the directory
  std::vector<std::string> in_use;   // another process works in them: they stay
  std::vector<std::string> refused;  // a sentence for each other that stays: it is another user's
};

// Each NAME.partial of `directory` that a save, import or export of this user made, and that no
// process works in. One that cannot be removed keeps none of the others.
Result<Pruned> prune(const std::string& directory);

}  // namespace vmm::snapshot
