#include "src/spec/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "src/base/json.h"

namespace vmm::spec {
namespace {

using nlohmann::ordered_json;

constexpr auto kReplace = ordered_json::error_handler_t::replace;

Result<Value> from_json(const ordered_json& json) {
  if (json.is_boolean()) return Value(json.get<bool>());
  if (json.is_number_unsigned()) return Value(json.get<std::uint64_t>());
  if (json.is_string()) return Value(json.get<std::string>());
  if (json.is_array()) {
    List list;
    for (const auto& element : json) list.push_back(TRY(from_json(element)));
    return Value(std::move(list));
  }
  if (!json.is_object()) {
    return fail("{} is not a text, a whole number, true, false, a list or an object",
                json.dump(-1, ' ', false, kReplace));
  }
  Object object;
  for (const auto& [key, element] : json.items()) {
    auto value = from_json(element);
    if (!value) return fail("'{}': {}", key, value.error().message());
    object.push_back({key, std::move(*value)});
  }
  return Value(std::move(object));
}

ordered_json to_tree(const Value& value) {
  if (const auto* on = value.as<bool>()) return *on;
  if (const auto* number = value.as<std::uint64_t>()) return *number;
  if (const auto* text = value.as<std::string>()) return *text;
  if (const auto* list = value.as<List>()) {
    auto array = ordered_json::array();
    for (const auto& element : *list) array.push_back(to_tree(element));
    return array;
  }
  auto object = ordered_json::object();
  if (const auto* members = value.as<Object>()) {
    for (const auto& [key, member] : *members) object[key] = to_tree(member);
  }
  return object;
}

}  // namespace

Result<Value> parse_value(std::string_view text) {
  const auto json = parse_ordered_json(text, JsonComments::ignored);
  if (!json) return fail("not valid JSON: {}", json.error().message());
  return from_json(*json);
}

Result<std::string> to_json(const Value& value) {
  try {
    return to_tree(value).dump(2);
  } catch (const ordered_json::type_error&) {
    return fail("a path or text of the machine is not UTF-8, which its description needs");
  }
}

std::string shown(const Value& value) {
  constexpr std::size_t kMost = 200;
  auto text = to_tree(value).dump(-1, ' ', false, kReplace);
  if (text.size() > kMost) text.resize(kMost);
  return text;
}

}  // namespace vmm::spec
