#include "src/engine/cli/program.h"

#include <fmt/core.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "src/base/helper_program.h"
#include "src/base/text.h"
#include "src/engine/cli/command_table.h"
#include "src/engine/cli/commands.h"

namespace vmm::engine::cli {
namespace {

using Arguments = std::span<const std::string>;

constexpr int kFailed = 1;
constexpr int kBadFlag = 125;

std::string program_name = "vmm";  // or docker, as it was called
std::vector<std::string> program_arguments;
std::span<const Runner> program_runners;

// "image ls" and "images" are one command; so are words that Docker has for the second.
const Command* find(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kOlder = {
      {{"image list", "images"}, {"image remove", "rmi"}, {"image history", "history"}}};
  for (const auto& [older, newer] : kOlder) {
    if (name == older) name = newer;
  }
  const auto found = std::ranges::find_if(kCommands, [name](const Command& command) {
    return command.name == name || (!command.alias.empty() && command.alias == name);
  });
  return found == kCommands.end() ? nullptr : &*found;
}

std::string path_of(const Command& command) {
  return fmt::format("{} {}", program_name, command.name);
}

std::string usage_of(const Command& command) {
  const auto other = other_form(command);
  auto text = fmt::format("Usage:  {} {}", path_of(command), command.form);
  if (!other.empty()) text += fmt::format("\n        {} {}", path_of(command), other);
  return text;
}

// A paragraph in lines of 80 columns at most.
std::string wrapped(std::string_view paragraph) {
  constexpr std::size_t kWidth = 80;
  std::string text = "\n";
  std::size_t column = 0;
  for (const auto word : split(paragraph, ' ')) {
    const bool fits = column == 0 || column + 1 + word.size() <= kWidth;
    if (column != 0) text += fits ? ' ' : '\n';
    column = (fits && column != 0 ? column + 1 : 0) + word.size();
    text += word;
  }
  return text + "\n";
}

std::string help_of(const Command& command) {
  auto text = fmt::format("\n{}\n\n{}\n", usage_of(command), command.summary);
  for (const auto paragraph : command.paragraphs) text += wrapped(paragraph);
  if (!command.alias.empty()) {
    text += fmt::format("\nAliases:\n  {} {}, {}\n", program_name, command.alias, path_of(command));
  }
  std::size_t width = 0;
  std::vector<std::pair<std::string, std::string_view>> lines;
  for (const auto& option : command.options) {
    if (option.help.empty()) continue;
    auto left = option.letter != 0 ? fmt::format("  -{}, ", option.letter) : std::string("      ");
    left += fmt::format("--{}{}{}", option.name, option.value.empty() ? "" : " ", option.value);
    width = std::max(width, left.size());
    lines.emplace_back(std::move(left), option.help);
  }
  if (!lines.empty()) text += "\nOptions:\n";
  for (const auto& [left, right] : lines) text += fmt::format("{:<{}}   {}\n", left, width, right);
  return text;
}

// All of them, or those of a group such as `image`.
int list_commands(std::string_view group) {
  const auto prefix = group.empty() ? std::string() : fmt::format("{} ", group);
  fmt::print("Usage:  {} {}COMMAND\n\nCommands:\n", program_name, prefix);
  for (const auto& command : kCommands) {
    const auto name = command.name.starts_with(prefix) ? command.name : command.alias;
    if (name.starts_with(prefix)) {
      fmt::print("  {:<14}  {}\n", name.substr(prefix.size()), command.summary);
    }
  }
  fmt::print("\nRun '{} {}COMMAND --help' for more information on a command.\n", program_name,
             prefix);
  return 0;
}

void complain(const Command& command, std::string_view text) {
  fmt::print(stderr, "{}\n\n{}\n\nRun '{} --help' for more information\n", text, usage_of(command),
             path_of(command));
}

std::string wrong_number(const Command& command) {
  const auto arguments = [](std::size_t n) { return n == 1 ? "argument" : "arguments"; };
  const auto what = fmt::format("{}: '{}'", program_name, path_of(command));
  if (command.most == 0) return what + " accepts no arguments";
  if (command.least == command.most) {
    return fmt::format("{} requires {} {}", what, command.least, arguments(command.least));
  }
  if (command.most == kAnyNumber) {
    return fmt::format("{} requires at least {} {}", what, command.least, arguments(command.least));
  }
  if (command.least == 0) {
    return fmt::format("{} requires at most {} {}", what, command.most, arguments(command.most));
  }
  return fmt::format("{} requires at least {} and at most {} arguments", what, command.least,
                     command.most);
}

// As this one was called, for a program that takes its place.
std::vector<char*> own_words() {
  std::vector<char*> words = {program_name.data()};
  for (auto& word : program_arguments) words.push_back(word.data());
  words.push_back(nullptr);
  return words;
}

Result<std::string> find_registry_program() {
  return find_helper_program({"program for registries", "vmm-registry", "src/engine/cli"});
}

Result<int> become_registry_program() {
  const auto program = TRY(find_registry_program());
  ::execv(program.c_str(), own_words().data());
  return fail_errno("cannot start '{}'", program);
}

int run(const Command& command, Arguments arguments) {
  if (asks_for_help(command, arguments)) {
    print(help_of(command));
    return 0;
  }
  const auto words = Words::parse(command, arguments);
  if (!words) {
    complain(command, words.error().message());
    return kBadFlag;
  }
  const auto count = words->names().size();
  const bool is_instead = !command.instead.empty() && words->has(command.instead);
  if (is_instead ? count > 0 : count < command.least || count > command.most) {
    complain(command, is_instead ? fmt::format("{}: --{} stands in place of {}", program_name,
                                               command.instead, words->names()[0])
                                 : wrong_number(command));
    return kFailed;
  }
  const auto runner = std::ranges::find(program_runners, command.name, &Runner::name);
  const auto code =
      runner == program_runners.end() ? become_registry_program() : runner->run(*words);
  if (!code) print_error(code.error().message());
  const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  if (!written) print_error("cannot write to standard output");
  return code && written ? *code : kFailed;
}

bool is_group(std::string_view word) {
  const auto prefix = fmt::format("{} ", word);
  return std::ranges::any_of(
      kCommands, [&prefix](const Command& command) { return command.name.starts_with(prefix); });
}

int dispatch(Arguments arguments) {
  const auto asks_for_help = [&arguments](std::size_t i) {
    return arguments.size() <= i || arguments[i] == "--help" || arguments[i] == "help";
  };
  if (asks_for_help(0)) return list_commands("");
  const auto& first = arguments[0];
  auto name = first;
  if (is_group(first)) {
    if (asks_for_help(1)) return list_commands(first);
    name += " " + arguments[1];
  }
  const auto* command = find(name);
  if (command != nullptr) return run(*command, arguments.subspan(is_group(first) ? 2 : 1));
  std::vector<std::string_view> known;
  for (const auto& one : kCommands) known.push_back(one.name);
  fmt::print(stderr, "{0}: unknown command: {0} {1}{2}\n\nRun '{0} --help' for more information\n",
             program_name, name, did_you_mean(name, known));
  return kFailed;
}

}  // namespace

int run_program(int argc, char** argv, std::span<const Runner> runners) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the write
  try {
    program_arguments.assign(argv + 1, argv + argc);
    program_runners = runners;
    const std::string_view name = argc > 0 ? argv[0] : "";
    if (name.substr(name.rfind('/') + 1) == "docker") program_name = "docker";
    return dispatch(program_arguments);
  } catch (const std::exception& error) {
    print_error(error.what());
    return 1;
  }
}

Result<int> run_registry_program() {
  const auto program = TRY(find_registry_program());
  const auto words = own_words();
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("cannot start '{}'", program);
  if (child == 0) {
    (void)::prctl(PR_SET_PDEATHSIG, SIGTERM);  // it ends as if it were this one
    ::execv(program.c_str(), words.data());
    ::_exit(127);
  }
  // Ctrl-C is for both; the other one cleans up, and says so.
  const auto before = std::signal(SIGINT, SIG_IGN);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  std::signal(SIGINT, before);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool is_for_a_person() {
  static const bool is_terminal = ::isatty(STDOUT_FILENO) != 0;
  return is_terminal;
}

std::string_view program() { return program_name; }

Result<Store> open_store() { return Store::open(TRY(default_root())); }

std::int64_t now() {
  using namespace std::chrono;
  return duration_cast<seconds>(system_clock::now().time_since_epoch()).count();
}

void print(std::string_view text) {
  if (!is_for_a_person()) {
    fmt::print("{}", text);
    return;
  }
  const char* separator = "";
  for (const auto column : split(text, '\t')) {  // of a person's own format
    fmt::print("{}{}", std::exchange(separator, "\t"), printable(column));
  }
}

std::string one_line(std::string text) {
  if (is_for_a_person()) std::ranges::replace(text, '\n', '?');
  return text;
}

// Programs that drive Docker look for the first words. A guest, a registry or a file may have said
// the rest.
void print_error(std::string_view message) {
  std::fflush(stdout);
  const auto text = printable(message);
  const bool is_docker = program_name == "docker";
  if (is_docker && text.starts_with("Error")) {
    fmt::print(stderr, "{}\n", text);
  } else if (is_docker) {
    fmt::print(stderr, "Error response from daemon: {}\n", text);
  } else {
    fmt::print(stderr, "{}: {}\n", program_name, text);
  }
}

std::string show_id(const Digest& id, bool whole) { return whole ? id.text() : id.short_hex(); }

}  // namespace vmm::engine::cli
