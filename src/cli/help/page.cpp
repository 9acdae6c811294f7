#include "src/cli/help/page.h"

#include <boost/program_options/cmdline.hpp>

#include <algorithm>
#include <array>
#include <cctype>

#include "src/base/text.h"

namespace vmm::cli {
namespace {

namespace po = boost::program_options;

// The names of values that are paths; those of other values are not completed.
constexpr std::array<std::string_view, 9> kPaths = {"PATH",   "FILE",    "DIR", "ARCHIVE", "SOURCE",
                                                    "TARGET", "BACKING", "NEW", "SOCKET"};

bool is_placeholder(char c) { return std::isupper(static_cast<unsigned char>(c)) != 0; }

// One of several that '|' separates.
void add_choice(Choices& choices, std::string_view word) {
  const auto begin = std::ranges::find_if(word, is_placeholder);
  if (begin != word.begin()) {
    choices.words.emplace_back(word.begin(), begin);
  } else if (word == "COMMAND") {
    choices.commands = true;
  } else if (std::ranges::find(kPaths, word) != kPaths.end()) {
    choices.files = true;
  }
}

}  // namespace

OptionGroup group_of(std::string title, const po::options_description& description) {
  OptionGroup group{std::move(title), {}};
  for (const auto& described : description.options()) {
    namespace style = po::command_line_style;
    Option option;
    option.short_name = described->canonical_display_name(style::allow_dash_for_short);
    if (!option.short_name.starts_with('-')) option.short_name.clear();
    option.name = described->long_name().empty() ? std::exchange(option.short_name, "")
                                                 : "--" + described->long_name();
    const auto& value = *described->semantic();
    if (value.max_tokens() > 0) option.value = value.name();
    option.repeatable = value.is_composing();
    option.text = described->description();
    group.options.push_back(std::move(option));
  }
  return group;
}

const Page* find_page(const Page& program, std::span<const std::string> path) {
  const Page* page = &program;
  for (const auto& name : path) {
    const auto found = std::ranges::find(page->commands, name, &Page::name);
    if (found == page->commands.end()) return nullptr;
    page = &*found;
  }
  return page;
}

Choices choices_of(std::string_view form) {
  Choices choices;
  for (auto word : split(form, ' ')) {
    while (word.starts_with('[')) word.remove_prefix(1);
    if (word.starts_with('-')) continue;  // an option, described elsewhere
    for (const auto one : split(word, '|')) {
      // Of PATH[,KEY...], what is typed first.
      const auto first = one.substr(0, one.find_first_of("[],"));
      if (!first.empty()) add_choice(choices, first);
    }
  }
  return choices;
}

Choices choices_of(const Page& page) {
  Choices all;
  for (const auto& form : page.forms) {
    auto choices = choices_of(form);
    std::ranges::move(choices.words, std::back_inserter(all.words));
    all.files |= choices.files;
    all.commands |= choices.commands;
  }
  return all;
}

}  // namespace vmm::cli
