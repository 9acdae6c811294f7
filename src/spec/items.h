// Items: how a member of a structure is said in words and JSON.
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "src/spec/fields.h"

namespace vmm::spec {

// "invalid value 'x': expected WHAT".
std::unexpected<Error> invalid(const Value& value, std::string_view expected);

// The same, with a suggestion: "expected raw, qcow2 or vmdk".
std::unexpected<Error> not_among(std::string_view text, const std::vector<std::string_view>& names);

Item text(std::string& target);
Item toggle(bool& target);

// A number from `low` to `high`, through functions: what the templates below share.
Item number_item(std::function<void(std::uint64_t)> set, std::function<std::uint64_t()> get,
                 std::uint64_t low, std::uint64_t high);

template <std::unsigned_integral T>
Item number(T& target, std::uint64_t low, std::uint64_t high) {
  return number_item([&target](std::uint64_t n) { target = static_cast<T>(n); },
                     [&target] { return std::uint64_t{target}; }, low, high);
}
// Bytes or another amount: "512M" in words, a number in JSON.
Item size(std::uint64_t& target);

// An item of another kind of check: the value was set by `item`, then `check` looks at it.
Item checked(Item item, std::function<Result<void>()> check);

// A text that `parse` makes a T of, and T::text() a text.
template <typename T>
Item parsed(T& target, Result<T> (*parse)(std::string_view) = &T::parse) {
  return {.type = Type::text,
          .set = [&target, parse](const Value& value) -> Result<void> {
            target = TRY(parse(*value.as<std::string>()));
            return {};
          },
          .get = [&target] { return Value(target.text()); }};
}
template <typename T>
Item parsed(std::optional<T>& target, Result<T> (*parse)(std::string_view) = &T::parse) {
  return {.type = Type::text,
          .set = [&target, parse](const Value& value) -> Result<void> {
            target = TRY(parse(*value.as<std::string>()));
            return {};
          },
          .get = [&target] { return target ? Value(target->text()) : Value(); }};
}
// Any number of them: a list in JSON, the key once for each in words.
template <typename T>
Item parsed_list(std::vector<T>& target, Result<T> (*parse)(std::string_view) = &T::parse) {
  return {.type = Type::list,
          .set = [&target, parse](const Value& value) -> Result<void> {
            const auto* text = value.as<std::string>();
            if (text == nullptr) return invalid(value, "a text");
            target.push_back(TRY(parse(*text)));
            return {};
          },
          .get =
              [&target] {
                List list;
                for (const auto& element : target) list.push_back(Value(element.text()));
                return Value(std::move(list));
              }};
}

// One of several names; what has none of them is not printed.
template <typename T, std::size_t N>
Item choice(T& target, const std::array<std::pair<std::string_view, T>, N>& names) {
  std::vector<std::string_view> known;
  for (const auto& [name, value] : names) known.push_back(name);
  return {.type = Type::text,
          .set = [&target, names, known](const Value& value) -> Result<void> {
            for (const auto& [name, choice] : names) {
              if (name != *value.as<std::string>()) continue;
              target = choice;
              return {};
            }
            return not_among(*value.as<std::string>(), known);
          },
          .get = [&target, names]() -> Value {
            for (const auto& [name, choice] : names) {
              if (choice == target) return Value(std::string(name));
            }
            return {};
          }};
}

// ---- components of their own: objects in JSON, or a text, which are the words of an option

template <typename T>
using WordParser = Result<T> (*)(std::string_view);

template <typename T>
Result<T> component_of(const Value& value, WordParser<T> words) {
  if (const auto* text = value.as<std::string>()) return words(*text);
  if (const auto* object = value.as<Object>()) return from_object<T>(*object);
  return invalid(value, "an object or a text");
}

// Of attachments, objects that say nothing are not there.
Value attached(Value value, Sides sides);

template <typename T>
Item component(T& target, WordParser<T> words) {
  return {.type = Type::object,
          .set = [&target, words](const Value& value) -> Result<void> {
            target = TRY(component_of<T>(value, words));
            return {};
          },
          .get = [&target] { return Value(describe(target)); },
          .get_sides = [&target](Sides sides) { return Value(describe(target, sides)); }};
}
template <typename T>
Item component(std::optional<T>& target, WordParser<T> words) {
  return {.type = Type::object,
          .set = [&target, words](const Value& value) -> Result<void> {
            target = TRY(component_of<T>(value, words));
            return {};
          },
          .get = [&target] { return target ? Value(describe(*target)) : Value(); },
          .get_sides =
              [&target](Sides sides) {
                return target ? attached(Value(describe(*target, sides)), sides) : Value();
              }};
}
template <typename T>
Item components(std::vector<T>& target, WordParser<T> words) {
  const auto list_of = [&target](Sides sides) {
    List list;
    for (const auto& element : target) list.push_back(Value(describe(element, sides)));
    return attached(Value(std::move(list)), sides);
  };
  return {.type = Type::list,
          .set = [&target, words](const Value& value) -> Result<void> {
            target.push_back(TRY(component_of<T>(value, words)));
            return {};
          },
          .get = [list_of] { return list_of(Sides::all); },
          .get_sides = list_of};
}

}  // namespace vmm::spec
