// The words of a command such as `vmm disk create PATH SIZE --format raw`: its options, and the
// names that belong to none.
#pragma once

#include <boost/program_options/options_description.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/cli/commands/commands.h"

namespace vmm::cli {

struct WordsForm {
  std::string_view command;  // "disk create"
  std::string_view usage;    // of its words: "PATH [SIZE]"
  std::size_t least, most;   // names
};

// Error: an option has an empty value ("--mem=", "--mem ''"), as a variable that is not set gives
// it.
Result<void> refuse_empty_values(Arguments arguments);

// The names; the options' values go where `options` says. Error: an option that is none of them
// (with the nearest one), without its value or twice; an empty name, too few of them, too many.
Result<std::vector<std::string>> parse_words(
    const WordsForm& form, const boost::program_options::options_description& options,
    Arguments arguments);

}  // namespace vmm::cli
