// A container as the Engine's API describes it.
#pragma once

#include <nlohmann/json.hpp>

#include "src/engine/runtime/container.h"

namespace vmm::engine::cli {

nlohmann::ordered_json describe(const Containers& containers, const Container& container);

}  // namespace vmm::engine::cli
