#include "src/cli/config/option_text.h"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace vmm::config {
namespace {

std::string double_commas(std::string_view text) {
  std::string result;
  for (const char c : text) {
    result += c;
    if (c == ',') result += c;
  }
  return result;
}

// "12" is a number in JSON, "on" is true; all else is a text.
nlohmann::json typed(const Word& word) {
  if (!word.has_value || word.value == "on") return true;
  if (word.value == "off") return false;
  const bool digits = !word.value.empty() && word.value.size() < 19 &&
                      std::ranges::all_of(word.value, [](char c) { return c >= '0' && c <= '9'; });
  if (digits && (word.value == "0" || word.value[0] != '0')) return std::stoull(word.value);
  return word.value;
}

Result<std::string> scalar(const nlohmann::json& value, std::string_view what) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return std::string(value.get<bool>() ? "on" : "off");
  if (value.is_number_unsigned()) return value.dump();
  return fail("{} is to be a text, a whole number, true or false, not {}", what, value.dump());
}

}  // namespace

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words(1);
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ',') {
      words.back() += text[i];
    } else if (i + 1 < text.size() && text[i + 1] == ',') {
      words.back() += text[++i];
    } else {
      words.emplace_back();
    }
  }
  return words;
}

Word split_word(std::string_view word) {
  const auto equals = word.find('=');
  if (equals == std::string_view::npos) return {std::string(word), "", false};
  return {std::string(word.substr(0, equals)), std::string(word.substr(equals + 1)), true};
}

nlohmann::json to_object(std::string_view text, std::string_view positional) {
  nlohmann::json object = nlohmann::json::object();
  bool first = true;
  for (const auto& part : split_words(text)) {
    Word word = split_word(part);
    // A path may have an equals sign in it.
    if (std::exchange(first, false) && !positional.empty() && word.key != positional) {
      word = {std::string(positional), part, true};
    }
    if (!object.contains(word.key)) {
      object[word.key] = typed(word);
    } else {
      if (!object[word.key].is_array())
        object[word.key] = nlohmann::json::array({object[word.key]});
      object[word.key].push_back(typed(word));
    }
  }
  return object;
}

Result<std::string> to_text(const nlohmann::json& value, std::string_view positional,
                            std::string_view what) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object())
    return fail("{} is to be an object or a text, not {}", what, value.dump());
  std::vector<std::string> words;
  const auto add = [&](const std::string& key, const nlohmann::json& element) -> Result<void> {
    const std::string name = fmt::format("{}: {}", what, key);
    for (const auto& one : element.is_array() ? element : nlohmann::json::array({element})) {
      words.push_back(fmt::format("{}={}", key, TRY(scalar(one, name))));
    }
    return {};
  };
  // The positional key comes first, whatever the order in the file.
  const std::string first(positional);
  if (!first.empty()) {
    if (!value.contains(first)) return fail("{}: '{}' is missing", what, first);
    TRY(add(first, value[first]));
  }
  // A kind of network stands alone ("user": true), so keys that are just true come before others.
  for (const bool flags : {true, false}) {
    for (const auto& [key, element] : value.items()) {
      if (!first.empty() && key == first) continue;
      if ((element.is_boolean() && element.get<bool>()) != flags) continue;
      if (flags) {
        words.push_back(key);
      } else {
        TRY(add(key, element));
      }
    }
  }
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i != 0) text += ',';
    text += double_commas(words[i]);
  }
  return text;
}

}  // namespace vmm::config
