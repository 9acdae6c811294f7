#include "src/cli/commands/words.h"

#include <boost/program_options.hpp>

#include <algorithm>

#include "src/base/text.h"

namespace vmm::cli {
namespace {

namespace po = boost::program_options;

// The words that belong to no option; no one can type this name of them.
constexpr const char* kNames = " names";

std::string nearest_option(std::string_view name, const po::options_description& options) {
  std::vector<std::string> known;
  for (const auto& option : options.options()) {
    known.push_back(option->canonical_display_name(po::command_line_style::allow_long));
  }
  const std::vector<std::string_view> names(known.begin(), known.end());
  return did_you_mean(name, names);
}

// Boost writes two dashes before a name of one letter, too.
std::string text_of(const po::error& error) {
  std::string text = error.what();
  for (std::size_t at = 0; (at = text.find("'--", at)) != std::string::npos; ++at) {
    if (text.substr(at + 4, 1) == "'") text.erase(at + 1, 1);
  }
  return text;
}

}  // namespace

Result<void> refuse_empty_values(Arguments arguments) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view word = arguments[i];
    if (!word.starts_with('-')) continue;
    const auto equals = word.find('=');
    const bool empty = equals == std::string_view::npos
                           ? i + 1 < arguments.size() && arguments[i + 1].empty()
                           : equals + 1 == word.size();
    if (!empty) continue;
    return fail("{}: an empty value was given; is a variable not set?", word.substr(0, equals));
  }
  return {};
}

Result<std::vector<std::string>> parse_words(const WordsForm& form,
                                             const po::options_description& options,
                                             Arguments arguments) {
  if (const auto checked = refuse_empty_values(arguments); !checked) {
    return fail("{}: {}", form.command, checked.error().message());
  }
  std::vector<std::string> names;
  po::options_description all;
  all.add(options).add_options()(kNames, po::value(&names));
  po::positional_options_description positional;
  positional.add(kNames, -1);
  try {
    namespace style = po::command_line_style;
    po::variables_map values;
    po::store(po::command_line_parser(std::vector<std::string>(arguments.begin(), arguments.end()))
                  .options(all)
                  .positional(positional)
                  .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next |
                         style::allow_short | style::allow_dash_for_short | style::short_allow_next)
                  .run(),
              values);
    po::notify(values);
  } catch (const po::unknown_option& error) {
    auto name = error.get_option_name();
    if (!name.starts_with('-')) name.insert(0, "--");
    return fail("{} has no option '{}'{}", form.command, name, nearest_option(name, options));
  } catch (const po::error& error) {
    return fail("{}: {}", form.command, text_of(error));
  }
  const auto group = form.command.substr(0, form.command.find(' '));
  const auto usage = fmt::format("expected vmm {}{}{}; see `vmm {} --help`", form.command,
                                 form.usage.empty() ? "" : " ", form.usage, group);
  if (names.size() > form.most) {
    return fail("{}: unexpected name '{}': {}", form.command, names[form.most], usage);
  }
  if (std::ranges::find(names, "") != names.end()) {
    return fail("{}: an empty name was given: {}", form.command, usage);
  }
  if (std::ranges::find(names, "-") != names.end()) {
    return fail(
        "{}: standard input and output ('-') are not supported; a file of that name is './-'",
        form.command);
  }
  if (names.size() < form.least) {
    return fail("{}: {} is missing: {}", form.command, split(form.usage, ' ')[names.size()], usage);
  }
  return names;
}

}  // namespace vmm::cli
