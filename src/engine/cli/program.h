// What the engine's programs share: finding the command that the words ask for, its help, errors.
// vmm-engine has all commands but those of registries, which are vmm-registry's: it becomes that
// one for them, and runs it for an image that `run` does not find.
#pragma once

#include <array>
#include <span>
#include <string_view>

#include "src/base/result.h"
#include "src/engine/cli/words.h"

namespace vmm::engine::cli {

struct Runner {
  std::string_view name;  // of command_table.h
  Result<int> (*run)(const Words&);
};

// main() of a program with these commands. One of command_table.h that is not among them is
// vmm-registry's.
int run_program(int argc, char** argv, std::span<const Runner> runners);

// vmm-registry, with the words of this program: for `run` and `create` it pulls their image.
// Returns its exit code, when it has said what there is to say.
Result<int> run_registry_program();

}  // namespace vmm::engine::cli
