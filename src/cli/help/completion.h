// Completion scripts of shells. Each has all words in it and never runs the program.
#pragma once

#include <string>

#include "src/cli/help/page.h"

namespace vmm::cli {

std::string bash_completion(const Page& program);
std::string zsh_completion(const Page& program);
std::string fish_completion(const Page& program);

}  // namespace vmm::cli
