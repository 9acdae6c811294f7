// The program `vmm`: finds the command that its words ask for.
#include <fmt/core.h>

#include <array>
#include <exception>

#include "src/base/text.h"
#include "src/cli/commands/commands.h"

namespace vmm::cli {
namespace {

struct Command {
  std::string_view name;
  std::string_view summary;
  int (*run)(Arguments);
  std::string (*help)();
};
std::string help_help() { return "Usage: vmm help [COMMAND]\n"; }
constexpr std::array<Command, 4> kCommands = {
    {{"ctl", "talk to a running machine", &ctl, &ctl_help},
     {"disk", "create, convert, check, ... disk images", &disk, &disk_help},
     {"snapshot", "list, check, merge, remove, pack saved machines", &snapshot_command,
      &snapshot_help},
     {"help", "list the commands, or explain one", &help, &help_help}}};

const Command* find(std::string_view name) {
  for (const auto& command : kCommands) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

int unknown(const std::string& name) {
  std::array<std::string_view, kCommands.size()> names;
  for (std::size_t i = 0; i < names.size(); ++i) names[i] = kCommands[i].name;
  return refuse(fmt::format("unknown command '{}'{}; `vmm help` lists them", name,
                            did_you_mean(name, names)));
}

int dispatch(Arguments words) {
  if (words.empty()) {
    (void)help({});
    return 1;  // nothing was asked for
  }
  if (words[0].starts_with('-')) return boot(words);
  const Command* command = find(words[0]);
  return command != nullptr ? command->run(words.subspan(1)) : unknown(words[0]);
}

}  // namespace

int refuse(const std::string& text) {
  fmt::print(stderr, "vmm: {}\n", text);
  return 1;
}

int help(Arguments arguments) {
  if (!arguments.empty()) {
    const Command* command = find(arguments[0]);
    if (command == nullptr) return unknown(arguments[0]);
    fmt::print("{}", command->help());
    return 0;
  }
  fmt::print(
      "vmm {}: virtual machines that are as easy to handle as containers\n\n"
      "  vmm --kernel PATH [--disk PATH]...  boot a Linux guest; `vmm --help` lists the options\n",
      VMM_VERSION);
  for (const auto& command : kCommands) {
    fmt::print("  vmm {:<32}{}\n", command.name, command.summary);
  }
  return 0;
}

}  // namespace vmm::cli

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> words(argv + 1, argv + argc);
    return vmm::cli::dispatch(words);
  } catch (const std::exception& error) {
    return vmm::cli::refuse(error.what());
  }
}
