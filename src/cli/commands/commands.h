// The commands of the program: each parses its words, calls, prints, and returns the exit code.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/cli/help/page.h"

namespace vmm::cli {

using Arguments = std::span<const std::string>;

struct Command {
  std::string_view name;
  int (*run)(Arguments);  // what follows the name
  Page (*page)();
};
std::span<const Command> commands();

int boot(Arguments arguments);              // no command word: a machine from options
int ctl(Arguments arguments);               // vmm ctl SOCKET COMMAND [ARGUMENT]
int disk(Arguments arguments);              // vmm disk COMMAND ...
int snapshot_command(Arguments arguments);  // vmm snapshot COMMAND ...
int help(Arguments arguments);              // vmm help [COMMAND [SUBCOMMAND]]
int completion(Arguments arguments);        // vmm completion bash|zsh|fish
int manual_command(Arguments arguments);    // vmm manual
// All words of a command of images (src/engine/cli/command_table.h); `name` is what the person
// called us: vmm or docker.
int engine(const std::string& name, Arguments words);
bool is_engine_command(Arguments words);
// Words behind a container's image are its own, `-h NAME` may be its host name.
bool engine_is_asked_for_help(Arguments words);

// What each takes and does. That of boot() is the program's, without the commands.
Page boot_page();
Page ctl_page();
Page disk_page();
Page snapshot_page();
Page help_page();
Page completion_page();
Page manual_page();
std::vector<Page> engine_pages();

// With the pages of all commands: what the engine has of the same name stands in one.
Page program_page();

// Prints the help of the command that the words name, {"snapshot", "export", "a"}, or the
// program's.
void print_help(Arguments words);

// "vmm: TEXT" on standard error; returns the code of a start that failed.
int refuse(const std::string& text);
int refuse_command(const std::string& name);  // there is none of that name

}  // namespace vmm::cli
