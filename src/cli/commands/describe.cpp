// The commands that describe the program: help, completion, manual. All of it is made of the tables
// that the other commands are parsed by (src/cli/help/page.h).
#include <boost/program_options/options_description.hpp>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <vector>

#include "src/base/text.h"
#include "src/cli/commands/commands.h"
#include "src/cli/commands/words.h"
#include "src/cli/help/completion.h"
#include "src/cli/help/help_text.h"
#include "src/cli/help/manual.h"

namespace vmm::cli {
namespace {

constexpr std::array<Command, 6> kCommands = {{{"ctl", &ctl, &ctl_page},
                                               {"disk", &disk, &disk_page},
                                               {"snapshot", &snapshot_command, &snapshot_page},
                                               {"help", &help, &help_page},
                                               {"completion", &completion, &completion_page},
                                               {"manual", &manual_command, &manual_page}}};

struct Shell {
  std::string_view name;
  std::string (*script)(const Page&);
};
constexpr std::array<Shell, 3> kShells = {
    {{"bash", &bash_completion}, {"zsh", &zsh_completion}, {"fish", &fish_completion}}};

Result<std::vector<std::string>> parse(const WordsForm& form, Arguments arguments) {
  return parse_words(form, boost::program_options::options_description(), arguments);
}

Page page_of(std::string_view name, std::string_view form, std::string_view summary) {
  Page page;
  page.name = name;
  if (!form.empty()) page.forms.emplace_back(form);
  page.summary = summary;
  return page;
}

constexpr WordsForm kHelpForm = {"help", "[COMMAND [SUBCOMMAND]]", 0, 2};
constexpr WordsForm kCompletionForm = {"completion", "bash|zsh|fish", 1, 1};
constexpr WordsForm kManualForm = {"manual", "", 0, 0};

// Or what it says to the page of the same name.
void add(std::vector<Page>& pages, Page page) {
  const auto same = std::ranges::find(pages, page.name, &Page::name);
  if (same == pages.end()) return pages.push_back(std::move(page));
  std::ranges::move(page.forms, std::back_inserter(same->forms));
  std::ranges::move(page.description, std::back_inserter(same->description));
  for (auto& group : page.groups) {
    group.title += " for those of containers";
    same->groups.push_back(std::move(group));
  }
  for (auto& command : page.commands) add(same->commands, std::move(command));
}

void print_overview() {
  const auto program = program_page();
  const auto width = output_width();
  fmt::print("vmm {}: {}\n\n{}\n{}\n", VMM_VERSION, program.summary, command_list(program, width),
             "`vmm --help` lists the options, `vmm help COMMAND` explains a command.");
}

}  // namespace

std::span<const Command> commands() { return kCommands; }

Page program_page() {
  Page program = boot_page();
  for (const auto& command : kCommands) program.commands.push_back(command.page());
  for (auto& page : engine_pages()) add(program.commands, std::move(page));
  return program;
}

void print_help(Arguments words) {
  const Page program = program_page();
  std::vector<std::string> path;
  if (!words.empty()) {
    path.push_back(words[0]);
    const auto* page = find_page(program, path);
    const std::size_t at = page->operand.empty() ? 1 : 2;
    if (words.size() > at) path.push_back(words[at]);
    if (find_page(program, path) == nullptr) path.pop_back();
  }
  fmt::print("{}", help_text(program, path, output_width()));
}

Page help_page() {
  auto page = page_of("help", kHelpForm.usage, "list the commands, or explain one");
  page.description = {
      "Lists the commands, or explains the one that is named, as its option --help does."};
  return page;
}

int help(Arguments arguments) {
  const auto names = parse(kHelpForm, arguments);
  if (!names) return refuse(names.error().message());
  if (names->empty()) {
    print_overview();
    return 0;
  }
  const Page program = program_page();
  const Page* group = find_page(program, Arguments(*names).first(1));
  if (group == nullptr) return refuse_command(names->front());
  if (find_page(program, *names) == nullptr) {
    std::vector<std::string_view> known;
    for (const auto& command : group->commands) known.push_back(command.name);
    return refuse(fmt::format("{} has no command '{}'{}", group->name, names->back(),
                              did_you_mean(names->back(), known)));
  }
  fmt::print("{}", help_text(program, *names, output_width()));
  return 0;
}

Page completion_page() {
  auto page = page_of("completion", kCompletionForm.usage, "print a shell's completion script");
  page.description = {
      "Prints the script by which a shell completes the words of vmm. An installed vmm has the "
      "scripts where the shells look for them.",
      "For bash in this session: `source <(vmm completion bash)`. For zsh, a file _vmm in a "
      "directory of $fpath. For fish, a file vmm.fish in ~/.config/fish/completions."};
  return page;
}

int completion(Arguments arguments) {
  const auto names = parse(kCompletionForm, arguments);
  if (!names) return refuse(names.error().message());
  std::vector<std::string_view> known;
  for (const auto& shell : kShells) {
    if (shell.name == names->front()) {
      fmt::print("{}", shell.script(program_page()));
      return 0;
    }
    known.push_back(shell.name);
  }
  return refuse(fmt::format("no completion for the shell '{}'{}: expected {}", names->front(),
                            did_you_mean(names->front(), known), kCompletionForm.usage));
}

Page manual_page() {
  auto page = page_of("manual", kManualForm.usage, "print the manual page");
  page.description = {
      "Prints the manual page in mdoc, as `man vmm` shows it when vmm is installed. Without: `vmm "
      "manual | man -l -`."};
  return page;
}

int manual_command(Arguments arguments) {
  const auto names = parse(kManualForm, arguments);
  if (!names) return refuse(names.error().message());
  fmt::print("{}", manual(program_page(), manual_date()));
  return 0;
}

int refuse_command(const std::string& name) {
  const Page program = program_page();
  std::vector<std::string_view> known;
  for (const auto& command : program.commands) known.push_back(command.name);
  return refuse(fmt::format("unknown command '{}'{}; `vmm help` lists them", name,
                            did_you_mean(name, known)));
}

}  // namespace vmm::cli
