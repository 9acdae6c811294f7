#include "src/engine/cli/words.h"

#include <algorithm>
#include <array>
#include <optional>

namespace vmm::engine::cli {
namespace {

// As Go's strconv.ParseBool.
std::optional<bool> parse_bool(std::string_view text) {
  constexpr std::array<std::string_view, 6> kTrue = {"1", "t", "T", "TRUE", "true", "True"};
  constexpr std::array<std::string_view, 6> kFalse = {"0", "f", "F", "FALSE", "false", "False"};
  if (std::ranges::find(kTrue, text) != kTrue.end()) return true;
  if (std::ranges::find(kFalse, text) != kFalse.end()) return false;
  return std::nullopt;
}

}  // namespace

std::string Words::text(std::string_view option) const {
  const auto found = values_.find(option);
  return found == values_.end() ? "" : found->second.back();
}

std::vector<std::string> Words::list(std::string_view option) const {
  const auto found = values_.find(option);
  return found == values_.end() ? std::vector<std::string>{} : found->second;
}

std::vector<std::string> Words::options() const {
  std::vector<std::string> names;
  for (const auto& [name, values] : values_) {
    if (has(name)) names.push_back(name);
  }
  return names;
}

Words Words::with_flag(std::string_view flag) const {
  auto words = *this;
  words.values_[std::string(flag)] = {"true"};
  return words;
}

Words Words::with(std::string_view pattern, std::string_view text) const {
  auto words = *this;
  for (auto& [name, values] : words.values_) {
    for (auto& value : values) {
      for (auto at = value.find(pattern); at != std::string::npos;
           at = value.find(pattern, at + text.size())) {
        value.replace(at, pattern.size(), text);
      }
    }
  }
  return words;
}

Result<Words> Words::parse(const Command& command, std::span<const std::string> arguments) {
  Words words;
  const auto set = [&words](const Option& option, std::string value) -> Result<void> {
    if (option.help.empty()) return fail("--{} is not supported", option.name);
    if (option.kind != OptionKind::flag) {
      words.values_[std::string(option.name)].push_back(std::move(value));
      return {};
    }
    const auto on = parse_bool(value);
    if (!on) {
      return fail("invalid argument \"{}\" for \"--{}\" flag: expected true or false", value,
                  option.name);
    }
    words.values_[std::string(option.name)] = {value};
    if (*on) {
      words.off_.erase(std::string(option.name));
    } else {
      words.off_.emplace(option.name);
    }
    return {};
  };
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view word = arguments[i];
    if (word == "--") {
      words.names_.insert(words.names_.end(),
                          arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1, arguments.end());
      break;
    }
    if (!word.starts_with('-') || word == "-") {
      words.names_.emplace_back(word);
      if (!command.ends_at_name) continue;
      words.names_.insert(words.names_.end(),
                          arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1, arguments.end());
      break;
    }
    if (word.starts_with("--")) {
      const auto equals = word.find('=');
      const auto name = word.substr(2, equals == std::string_view::npos ? equals : equals - 2);
      const auto option = std::ranges::find(command.options, name, &Option::name);
      if (option == command.options.end()) return fail("unknown flag: --{}", name);
      if (equals != std::string_view::npos) {
        TRY(set(*option, std::string(word.substr(equals + 1))));
      } else if (option->kind == OptionKind::flag) {
        TRY(set(*option, "true"));
      } else if (++i < arguments.size()) {
        TRY(set(*option, arguments[i]));
      } else {
        return fail("flag needs an argument: --{}", name);
      }
      continue;
    }
    for (std::size_t at = 1; at < word.size(); ++at) {
      const auto option = std::ranges::find(command.options, word[at], &Option::letter);
      if (option == command.options.end()) {
        return fail("unknown shorthand flag: '{}' in {}", word[at], word);
      }
      if (option->kind == OptionKind::flag) {
        const bool has_value = at + 1 < word.size() && word[at + 1] == '=';
        TRY(set(*option, has_value ? std::string(word.substr(at + 2)) : "true"));
        if (has_value) break;
        continue;
      }
      auto value = word.substr(at + 1);
      if (value.starts_with('=')) value.remove_prefix(1);
      if (at + 1 < word.size()) {
        TRY(set(*option, std::string(value)));
      } else if (++i < arguments.size()) {
        TRY(set(*option, arguments[i]));
      } else {
        return fail("flag needs an argument: '{}' in {}", word[at], word);
      }
      break;
    }
  }
  return words;
}

}  // namespace vmm::engine::cli
