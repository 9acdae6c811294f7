// Commands of images and containers: this program becomes the engine's, which has the libraries
// that they take.
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "src/base/helper_program.h"
#include "src/cli/commands/commands.h"
#include "src/engine/cli/command_table.h"

namespace vmm::cli {
namespace {

Page page_of(const vmm::engine::cli::Command& command, std::string_view name) {
  Page page;
  page.name = name;
  page.forms.emplace_back(command.form);
  if (auto other = other_form(command); !other.empty()) page.forms.push_back(std::move(other));
  page.summary = command.summary;
  if (!command.paragraphs.empty()) {
    page.description.push_back(fmt::format("{}.", command.summary));
    for (const auto paragraph : command.paragraphs) page.description.emplace_back(paragraph);
  }
  OptionGroup group{"Options", {}};
  for (const auto& option : command.options) {
    if (option.help.empty()) continue;  // refused
    group.options.push_back(
        {.name = fmt::format("--{}", option.name),
         .short_name = option.letter == 0 ? "" : fmt::format("-{}", option.letter),
         .value = std::string(option.value),
         .repeatable = option.kind == vmm::engine::cli::OptionKind::list,
         .text = std::string(option.help)});
  }
  if (!group.options.empty()) page.groups.push_back(std::move(group));
  return page;
}

// "image inspect" stands in the page "image".
void add(std::vector<Page>& pages, const vmm::engine::cli::Command& command,
         std::string_view name) {
  const auto space = name.find(' ');
  if (space == std::string_view::npos) {
    pages.push_back(page_of(command, name));
    return;
  }
  const auto group = name.substr(0, space);
  auto page = std::ranges::find(pages, group, &Page::name);
  if (page == pages.end()) {
    page = pages.insert(page, Page());
    page->name = group;
    page->summary =
        group == "system" ? "show what the store takes" : fmt::format("manage {}s", group);
  }
  page->commands.push_back(page_of(command, name.substr(space + 1)));
}

// The option that a word is, or null.
const vmm::engine::cli::Option* option_of(const vmm::engine::cli::Command& command,
                                          std::string_view word) {
  const auto found = std::ranges::find_if(command.options, [word](const auto& option) {
    return word.starts_with("--") ? word.substr(2, word.find('=') - 2) == option.name
                                  : word.size() == 2 && word[1] == option.letter;
  });
  return found == command.options.end() ? nullptr : &*found;
}

}  // namespace

bool engine_is_asked_for_help(Arguments words) {
  const auto [command, count] = vmm::engine::cli::find_command(words);
  if (command != nullptr) return vmm::engine::cli::asks_for_help(*command, words.subspan(count));
  return std::ranges::any_of(words.subspan(1),
                             [](const auto& word) { return word == "-h" || word == "--help"; });
}

// Snapshots of containers have names, those of machines are files.
bool is_engine_command(Arguments words) {
  if (!vmm::engine::cli::is_engine_word(words[0])) return false;
  if (words[0] != "snapshot") return true;
  const auto [command, count] = vmm::engine::cli::find_command(words);
  if (command == nullptr) return false;
  if (command->name == "snapshot create") return true;
  const bool removes = command->name == "snapshot rm";  // whatever there is in this directory
  bool has_names = false;
  for (std::size_t i = count; i < words.size(); ++i) {
    const auto& word = words[i];
    const auto* option = option_of(*command, word);
    if (option != nullptr) {
      const bool is_whole = option->kind == vmm::engine::cli::OptionKind::flag;
      if (!is_whole && !word.contains('=')) ++i;  // its value
    } else if (word.starts_with('-')) {
      return false;
    } else if (word.contains('/') || (!removes && ::access(word.c_str(), F_OK) == 0)) {
      return false;
    } else {
      has_names = true;
    }
  }
  return has_names == (command->most > 0);
}

std::vector<Page> engine_pages() {
  std::vector<Page> pages;
  for (const auto& command : vmm::engine::cli::kCommands) {
    add(pages, command, command.name);
    if (!command.alias.empty()) add(pages, command, command.alias);
  }
  return pages;
}

int engine(const std::string& name, Arguments words) {
  const auto program = find_helper_program({"engine", "vmm-engine", "src/engine/cli"});
  if (!program) return refuse(program.error().message());
  std::vector<char*> arguments = {const_cast<char*>(name.c_str())};
  for (const auto& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::execv(program->c_str(), arguments.data());
  return refuse(fail_errno("cannot start '{}'", *program).error().message());
}

}  // namespace vmm::cli
