// The functions of templates: Go's own, and those that Docker adds.
#pragma once

#include <span>
#include <string>

#include "src/engine/cli/go_parser.h"

namespace vmm::engine::cli::go {

Result<Json> call(const std::string& name, std::span<const Json> arguments);
bool is_true(const Json& value);  // neither empty nor zero

}  // namespace vmm::engine::cli::go
