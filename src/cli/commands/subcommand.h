// Groups of commands of two words, such as `vmm disk create`: a table says what each takes and
// does; it is parsed by, and its page (help, manual, completion) is made of it.
//
//   constexpr std::array kCommands = {
//       Subcommand<Words>{"rm", "DIR", "remove it", 1, 1, nullptr, &rm},
//   };
//   constexpr Group<Words> kGroup = {"snapshot", "", "handle saved machines", kCommands};
//   Page page = page_of(kGroup);                  // describe it further: description, exit codes
//   return run_subcommand(kGroup, arguments);
#pragma once

#include <boost/program_options/options_description.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/text.h"
#include "src/cli/commands/words.h"
#include "src/cli/help/page.h"

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
  int failure = 1;                   // the exit code of an error
};

template <typename Words>
struct Group {
  std::string_view name;
  std::string_view operand;  // stands before the name of a subcommand and is its first name; or ""
  std::string_view summary;
  std::span<const Subcommand<Words>> commands;

  std::string full_name() const {
    return operand.empty() ? std::string(name) : fmt::format("{} {}", name, operand);
  }
};

template <typename Words>
Page page_of(const Group<Words>& group) {
  Page page;
  page.name = group.name;
  page.operand = group.operand;
  page.summary = group.summary;
  for (const auto& command : group.commands) {
    Page sub;
    sub.name = command.name;
    sub.summary = command.summary;
    std::string form(command.form);
    if (command.describe != nullptr) {
      Words unused;
      boost::program_options::options_description options;
      command.describe(options, unused);
      sub.groups.push_back(group_of("Options", options));
      form += " [OPTION]...";
    }
    if (!form.empty()) sub.forms.push_back(form.substr(form.starts_with(' ') ? 1 : 0));
    page.commands.push_back(std::move(sub));
  }
  return page;
}

template <typename Words>
int run_subcommand(const Group<Words>& group, Arguments arguments) {
  Words words;
  std::vector<std::string> operand;
  if (!group.operand.empty() && !arguments.empty()) {
    operand.push_back(arguments.front());
    arguments = arguments.subspan(1);
  }
  const auto group_name = group.full_name();
  std::vector<std::string_view> known;
  for (const auto& command : group.commands) known.push_back(command.name);
  if (arguments.empty()) {
    return refuse(fmt::format("{} takes a command: {}", group_name, fmt::join(known, ", ")));
  }
  const auto command = std::ranges::find(group.commands, arguments[0], &Subcommand<Words>::name);
  if (command == group.commands.end()) {
    return refuse(fmt::format("{} has no command '{}'{}; `vmm help {}` lists them", group_name,
                              arguments[0], did_you_mean(arguments[0], known), group.name));
  }
  boost::program_options::options_description options;
  if (command->describe != nullptr) command->describe(options, words);
  const auto full_name = fmt::format("{} {}", group_name, command->name);
  auto names = parse_words({full_name, command->form, command->least, command->most}, options,
                           arguments.subspan(1));
  const auto failed = [&command](const std::string& text) {
    (void)refuse(text);
    return command->failure;
  };
  if (!names) return failed(names.error().message());
  words.names = std::move(operand);
  words.names.insert(words.names.end(), names->begin(), names->end());
  const auto code = command->run(words);
  return code ? *code : failed(code.error().message());
}

}  // namespace vmm::cli
