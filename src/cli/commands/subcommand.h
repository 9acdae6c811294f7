// Commands of two words, such as `vmm disk create`: a table says what each takes and does, and its
// help is made of it.
//
//   constexpr std::array kCommands = {
//       Subcommand<Words>{"rm", "DIR", "remove it", 1, 1, nullptr, &rm},
//   };
//   return run_subcommand<Words>("snapshot", kCommands, snapshot_help, arguments);
#pragma once

#include <boost/program_options/options_description.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/text.h"
#include "src/cli/commands/words.h"

namespace vmm::cli {

// `Words` has the `names`, and room for the options' values of all commands of the table.
template <typename Words>
struct Subcommand {
  std::string_view name;
  std::string_view form;  // of its names: "PATH [SIZE]"
  std::string_view summary;
  std::size_t least, most;                                                     // names
  void (*describe)(boost::program_options::options_description& all, Words&);  // null: no options
  Result<int> (*run)(const Words&);  // returns the exit code
};

// A line a command, and the options of each below.
template <typename Words>
std::string list_of(std::string_view group, std::span<const Subcommand<Words>> commands) {
  std::ostringstream text;
  for (const auto& command : commands) {
    text << fmt::format("  {:<33} {}\n",
                        fmt::format("vmm {} {} {}", group, command.name, command.form),
                        command.summary);
  }
  for (const auto& command : commands) {
    if (command.describe == nullptr) continue;
    Words unused;
    boost::program_options::options_description options(
        fmt::format("\nOptions of {}", command.name));
    command.describe(options, unused);
    text << options;
  }
  return text.str();
}

template <typename Words>
int run_subcommand(std::string_view group, std::span<const Subcommand<Words>> commands,
                   std::string (*help)(), Arguments arguments) {
  if (asks_for_help(arguments)) {
    fmt::print("{}", help());
    return 0;
  }
  std::vector<std::string_view> known;
  for (const auto& command : commands) known.push_back(command.name);
  if (arguments.empty()) {
    return refuse(fmt::format("{} takes a command: {}", group, fmt::join(known, ", ")));
  }
  const auto command = std::ranges::find(commands, arguments[0], &Subcommand<Words>::name);
  if (command == commands.end()) {
    return refuse(fmt::format("{} has no command '{}'{}; `vmm help {}` lists them", group,
                              arguments[0], did_you_mean(arguments[0], known), group));
  }
  Words words;
  boost::program_options::options_description options;
  if (command->describe != nullptr) command->describe(options, words);
  const auto full_name = fmt::format("{} {}", group, command->name);
  auto names = parse_words({full_name, command->form, command->least, command->most}, options,
                           arguments.subspan(1));
  if (!names) return refuse(names.error().message());
  words.names = std::move(*names);
  const auto code = command->run(words);
  return code ? *code : refuse(code.error().message());
}

}  // namespace vmm::cli
