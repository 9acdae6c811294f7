// The commands of the program: each parses its words, calls, prints, and returns the exit code.
#pragma once

#include <span>
#include <string>

namespace vmm::cli {

using Arguments = std::span<const std::string>;

int boot(Arguments arguments);              // no command word: a machine from options
int ctl(Arguments arguments);               // vmm ctl SOCKET COMMAND [ARGUMENT]
int disk(Arguments arguments);              // vmm disk create|convert|info|check|commit ...
int snapshot_command(Arguments arguments);  // vmm snapshot COMMAND ...
int help(Arguments arguments);              // vmm help [COMMAND]

// The texts that `--help` prints, and `vmm help`.
std::string boot_help();
std::string ctl_help();
std::string disk_help();
std::string snapshot_help();

// "vmm: TEXT" on standard error; returns the code of a start that failed.
int refuse(const std::string& text);

}  // namespace vmm::cli
