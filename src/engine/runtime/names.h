// Names of containers: ids, and names for those whom nobody names.
#pragma once

#include <string>
#include <string_view>

#include "src/base/result.h"

namespace vmm::engine {

std::string new_container_id();  // 64 hex digits
inline constexpr std::size_t kShortId = 12;

// "quirky_hopper"; from the second attempt on with a digit behind it.
std::string whimsical_name(unsigned attempt);

// Error: Docker's sentence about names.
Result<void> check_container_name(std::string_view name);

}  // namespace vmm::engine
