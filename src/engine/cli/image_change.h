// `commit --change`: instructions of a Dockerfile that change an image's configuration.
#pragma once

#include <nlohmann/json.hpp>

#include <string>

#include "src/base/result.h"

namespace vmm::engine::cli {

// CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME or WORKDIR; `config` is
// the object `config` of the configuration. Error: another instruction, or what it cannot say.
Result<void> apply_change(nlohmann::json& config, const std::string& instruction);

}  // namespace vmm::engine::cli
