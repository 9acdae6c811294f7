// vmm-registry: the commands that talk to registries, apart from the others for the libraries that
// they take. vmm-engine starts it.
#include "src/engine/cli/command_table.h"
#include "src/engine/cli/commands.h"
#include "src/engine/cli/program.h"

namespace vmm::engine::cli {
namespace {

constexpr std::array kRunners = {
    Runner{"create", &pull_for_container},
    Runner{"login", &login},
    Runner{"logout", &logout},
    Runner{"pull", &pull},
    Runner{"push", &push},
    Runner{"run", &pull_for_container},
};

}  // namespace
}  // namespace vmm::engine::cli

int main(int argc, char** argv) {
  return vmm::engine::cli::run_program(argc, argv, vmm::engine::cli::kRunners);
}
