// The tables of the store's database, and the steps from each version to the next.
#pragma once

#include "src/engine/store/database.h"

namespace vmm::engine {

// Error: the database is of a later version than this program knows.
Result<void> migrate(Database& database);

}  // namespace vmm::engine
