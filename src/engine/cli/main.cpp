// vmm-engine: images and containers, in the words of Docker. `vmm` becomes this program for the
// commands of command_table.h; called as `docker`, for all.
#include <algorithm>

#include "src/engine/cli/command_table.h"
#include "src/engine/cli/commands.h"
#include "src/engine/cli/program.h"

namespace vmm::engine::cli {
namespace {

constexpr std::array kRunners = {
    Runner{"attach", &attach},
    Runner{"commit", &commit},
    Runner{"container prune", &container_prune},
    Runner{"cp", &copy},
    Runner{"create", &create},
    Runner{"diff", &diff},
    Runner{"exec", &exec},
    Runner{"export", &export_container},
    Runner{"fork", &fork_container},
    Runner{"history", &history},
    Runner{"image inspect", &image_inspect},
    Runner{"image prune", &image_prune},
    Runner{"images", &images},
    Runner{"import", &import_image},
    Runner{"info", &info},
    Runner{"inspect", &inspect},
    Runner{"kill", &kill_containers},
    Runner{"load", &load},
    Runner{"logs", &logs},
    Runner{"pause", &pause},
    Runner{"port", &port},
    Runner{"ps", &ps},
    Runner{"rename", &rename_container},
    Runner{"restart", &restart},
    Runner{"rm", &remove_containers},
    Runner{"rmi", &remove_images},
    Runner{"run", &run_container},
    Runner{"save", &save},
    Runner{"snapshot create", &snapshot_create},
    Runner{"snapshot inspect", &snapshot_inspect},
    Runner{"snapshot ls", &snapshot_list},
    Runner{"snapshot rm", &snapshot_remove},
    Runner{"start", &start},
    Runner{"stats", &stats},
    Runner{"stop", &stop},
    Runner{"system df", &system_df},
    Runner{"system prune", &system_prune},
    Runner{"tag", &tag},
    Runner{"top", &top},
    Runner{"unpause", &unpause},
    Runner{"version", &version},
    Runner{"wait", &wait_for_containers},
};

// No other program has the rest, and no command is forgotten.
constexpr std::array<std::string_view, 4> kOfRegistries = {"login", "logout", "pull", "push"};
static_assert(std::ranges::all_of(kCommands, [](const Command& command) {
  const bool is_ours = std::ranges::find(kRunners, command.name, &Runner::name) != kRunners.end();
  const bool is_other = std::ranges::find(kOfRegistries, command.name) != kOfRegistries.end();
  return is_ours != is_other;
}));

}  // namespace
}  // namespace vmm::engine::cli

int main(int argc, char** argv) {
  return vmm::engine::cli::run_program(argc, argv, vmm::engine::cli::kRunners);
}
