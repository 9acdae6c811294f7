// What `--help` and `vmm help` print.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "src/cli/help/page.h"

namespace vmm::cli {

// Columns of the terminal that standard output is; 80 when it is none.
std::size_t output_width();

// The page of `path` in full, its subcommands' options too. No line is longer than `width` unless
// one word is. `path` exists.
std::string help_text(const Page& program, std::span<const std::string> path, std::size_t width);

// A line a command.
std::string command_list(const Page& program, std::size_t width);

}  // namespace vmm::cli
