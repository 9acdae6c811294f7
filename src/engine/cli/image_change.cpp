#include "src/engine/cli/image_change.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <vector>

#include "src/base/json.h"
#include "src/base/text.h"
#include "src/engine/runtime/spec.h"

namespace vmm::engine::cli {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 11> kInstructions = {
    "CMD",     "ENTRYPOINT", "ENV",  "EXPOSE", "HEALTHCHECK", "LABEL",
    "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"};

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char one) {
    return one >= 'a' && one <= 'z' ? static_cast<char>(one - 'a' + 'A') : static_cast<char>(one);
  });
  return text;
}

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

// Words between blanks, with quotes and backslashes as a Dockerfile has them.
Result<std::vector<std::string>> split_quoted(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  char quote = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char one = text[i];
    if (one == '\\' && quote != '\'' && i + 1 < text.size()) {
      word += text[++i];
      in_word = true;
    } else if (quote != 0 ? one == quote : one == '"' || one == '\'') {
      quote = quote != 0 ? '\0' : one;
      in_word = true;
    } else if (quote == 0 && (one == ' ' || one == '\t')) {
      if (in_word) words.push_back(std::exchange(word, {}));
      in_word = false;
    } else {
      word += one;
      in_word = true;
    }
  }
  if (quote != 0) return fail("a quote is missing in '{}'", text);
  if (in_word) words.push_back(word);
  return words;
}

// A list of texts in JSON, or nothing if the text is none.
std::optional<std::vector<std::string>> as_list(const std::string& text) {
  if (!text.starts_with('[')) return std::nullopt;
  const auto parsed = parse_json(text);
  if (!parsed || !parsed->is_array()) return std::nullopt;
  std::vector<std::string> list;
  for (const auto& one : *parsed) {
    if (!one.is_string()) return std::nullopt;
    list.push_back(one.get<std::string>());
  }
  return list;
}

std::vector<std::string> command_of(const std::string& text) {
  if (auto list = as_list(text)) return std::move(*list);
  return {"/bin/sh", "-c", text};
}

// NAME=VALUE ..., or NAME VALUE with all that follows.
Result<std::vector<std::pair<std::string, std::string>>> pairs_of(const std::string& text) {
  const auto words = TRY(split_quoted(text));
  std::vector<std::pair<std::string, std::string>> pairs;
  if (!words.empty() && !words[0].contains('=')) {
    const auto blank = text.find_first_of(" \t");
    if (blank == std::string::npos) return fail("'{}' has no value", text);
    pairs.emplace_back(text.substr(0, blank), trimmed(text.substr(blank)));
    return pairs;
  }
  for (const auto& word : words) {
    const auto equals = word.find('=');
    if (equals == 0 || equals == std::string::npos) {
      return fail("'{}' is not of the form name=value", word);
    }
    pairs.emplace_back(word.substr(0, equals), word.substr(equals + 1));
  }
  return pairs;
}

void set_variable(json& config, const std::string& name, const std::string& value) {
  auto list = config.contains("Env") && config["Env"].is_array() ? config["Env"] : json::array();
  const auto text = name + "=" + value;
  const auto found = std::ranges::find_if(list, [&name](const json& one) {
    return one.is_string() && one.get<std::string>().starts_with(name + "=");
  });
  if (found == list.end()) {
    list.push_back(text);
  } else {
    *found = text;
  }
  config["Env"] = std::move(list);
}

void set_key(json& config, const char* object, const std::string& key, json value) {
  if (!config.contains(object) || !config[object].is_object()) config[object] = json::object();
  config[object][key] = std::move(value);
}

// PORT[-PORT][/PROTOCOL]
Result<void> expose(json& config, const std::string& text) {
  const auto slash = std::min(text.find('/'), text.size());
  const auto protocol = slash == text.size() ? "tcp" : text.substr(slash + 1);
  if (protocol != "tcp" && protocol != "udp" && protocol != "sctp") {
    return fail("invalid proto '{}' of '{}': expected tcp, udp or sctp", protocol, text);
  }
  const auto ports = text.substr(0, slash);
  const auto dash = ports.find('-');
  const auto number = [](const std::string& one) { return parse_number(one, 1, 65535, "port"); };
  const auto first = number(ports.substr(0, dash));
  const auto last = dash == std::string::npos ? first : number(ports.substr(dash + 1));
  if (!first || !last || *last < *first) return fail("invalid containerPort: {}", text);
  for (auto port = *first; port <= *last; ++port) {
    set_key(config, "ExposedPorts", fmt::format("{}/{}", port, protocol), json::object());
  }
  return {};
}

Result<void> apply_list(json& config, const std::string& name, const std::string& text) {
  const auto list = as_list(text);
  const auto words = list ? *list : TRY(split_quoted(text));
  for (const auto& word : words) {
    if (name == "VOLUME") {
      set_key(config, "Volumes", word, json::object());
    } else {
      TRY(expose(config, word));
    }
  }
  return {};
}

// As Go has them: "1m30s", "500ms". Whole numbers; in nanoseconds.
Result<std::uint64_t> duration_of(const std::string& text) {
  constexpr std::array<std::pair<std::string_view, std::uint64_t>, 6> kUnits = {
      {{"ns", 1},
       {"us", 1'000},
       {"ms", 1'000'000},
       {"s", 1'000'000'000},
       {"m", 60'000'000'000},
       {"h", 3'600'000'000'000}}};
  const auto wrong = [&text] {
    return fail("invalid duration '{}': expected for example 30s, 1m30s or 500ms", text);
  };
  std::uint64_t sum = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto unit_at = std::min(text.find_first_not_of("0123456789", at), text.size());
    const auto end = std::min(text.find_first_of("0123456789", unit_at), text.size());
    const auto number = parse_number(text.substr(at, unit_at - at), 0, 1'000'000, "duration");
    const auto unit = std::ranges::find(kUnits, text.substr(unit_at, end - unit_at),
                                        &decltype(kUnits)::value_type::first);
    if (!number || unit == kUnits.end()) return wrong();
    sum += *number * unit->second;
    if (sum > INT64_MAX) return wrong();
    at = end;
  }
  if (text.empty() || (sum != 0 && sum < 1'000'000)) return wrong();  // 0: as if it was not given
  return sum;
}

Result<void> set_health_option(json& health, const std::string& word) {
  constexpr std::array<std::pair<std::string_view, const char*>, 4> kDurations = {
      {{"--interval", "Interval"},
       {"--timeout", "Timeout"},
       {"--start-period", "StartPeriod"},
       {"--start-interval", "StartInterval"}}};
  const auto equals = std::min(word.find('='), word.size());
  const auto name = word.substr(0, equals), value = word.substr(std::min(equals + 1, word.size()));
  if (name == "--retries") {
    const auto retries = parse_number(value, 0, 1'000'000, "retries");
    if (!retries) return fail("invalid --retries of HEALTHCHECK: '{}'", value);
    health["Retries"] = *retries;
    return {};
  }
  const auto found = std::ranges::find(kDurations, name, &decltype(kDurations)::value_type::first);
  if (found == kDurations.end()) return fail("unknown option of HEALTHCHECK: {}", name);
  health[found->second] = TRY(duration_of(value));
  return {};
}

// NONE, or [--interval=DURATION ...] CMD COMMAND. Kept for those that check it: here nobody does.
Result<void> set_health_check(json& config, std::string text) {
  auto health = json::object();
  while (text.starts_with("--")) {
    const auto end = std::min(text.find_first_of(" \t"), text.size());
    TRY(set_health_option(health, text.substr(0, end)));
    text = trimmed(text.substr(end));
  }
  const auto end = std::min(text.find_first_of(" \t"), text.size());
  const auto kind = upper(text.substr(0, end)), command = trimmed(text.substr(end));
  if (kind == "NONE") {
    if (!command.empty()) return fail("HEALTHCHECK NONE takes no arguments");
    health["Test"] = json::array({"NONE"});
  } else if (kind != "CMD") {
    return fail("unknown type '{}' in HEALTHCHECK: expected CMD or NONE", kind);
  } else if (command.empty()) {
    return fail("missing command after HEALTHCHECK CMD");
  } else if (auto list = as_list(command)) {
    list->insert(list->begin(), "CMD");
    health["Test"] = *list;
  } else {
    health["Test"] = json::array({"CMD-SHELL", command});
  }
  config["Healthcheck"] = std::move(health);
  return {};
}

}  // namespace

Result<void> apply_change(json& config, const std::string& instruction) {
  const auto whole = trimmed(instruction);
  const auto end = std::min(whole.find_first_of(" \t"), whole.size());
  const auto name = upper(whole.substr(0, end));
  const auto text = trimmed(whole.substr(end));
  if (std::ranges::find(kInstructions, name) == kInstructions.end()) {
    return fail("{} is not a valid change command: expected {}", name.empty() ? "''" : name,
                fmt::join(kInstructions, ", "));
  }
  if (text.empty()) return fail("{} requires at least one argument", name);
  if (name == "CMD" || name == "ENTRYPOINT") {
    config[name == "CMD" ? "Cmd" : "Entrypoint"] = command_of(text);
  } else if (name == "ENV") {
    for (const auto& [key, value] : TRY(pairs_of(text))) set_variable(config, key, value);
  } else if (name == "LABEL") {
    for (const auto& [key, value] : TRY(pairs_of(text))) set_key(config, "Labels", key, value);
  } else if (name == "EXPOSE" || name == "VOLUME") {
    return apply_list(config, name, text);
  } else if (name == "HEALTHCHECK") {
    return set_health_check(config, text);
  } else if (name == "USER") {
    config["User"] = text;
  } else if (name == "STOPSIGNAL") {
    TRY(parse_signal(text));
    config["StopSignal"] = text;
  } else if (name == "ONBUILD") {
    if (!config.contains("OnBuild") || !config["OnBuild"].is_array()) {
      config["OnBuild"] = json::array();
    }
    config["OnBuild"].push_back(text);
  } else {
    const auto before = config.value("WorkingDir", std::string("/"));
    config["WorkingDir"] = text.starts_with('/')   ? text
                           : before.ends_with('/') ? before + text
                                                   : before + "/" + text;
  }
  return {};
}

}  // namespace vmm::engine::cli
