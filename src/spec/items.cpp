#include "src/spec/items.h"

#include <algorithm>

#include "src/base/text.h"
#include "src/spec/json.h"

namespace vmm::spec {

std::unexpected<Error> invalid(const Value& value, std::string_view expected) {
  if (const auto* text = value.as<std::string>()) {
    return fail("invalid value '{}': expected {}", *text, expected);
  }
  return fail("invalid value {}: expected {}", shown(value), expected);
}

Item text(std::string& target) {
  return {.type = Type::text,
          .set = [&target](const Value& value) -> Result<void> {
            target = *value.as<std::string>();
            return {};
          },
          .get = [&target] { return Value(target); }};
}

Item toggle(bool& target) {
  return {.type = Type::toggle,
          .set = [&target](const Value& value) -> Result<void> {
            target = *value.as<bool>();
            return {};
          },
          .get = [&target] { return Value(target); }};
}

Item number_item(std::function<void(std::uint64_t)> set, std::function<std::uint64_t()> get,
                 std::uint64_t low, std::uint64_t high) {
  return {.type = Type::number,
          .set = [set = std::move(set), low, high](const Value& value) -> Result<void> {
            const auto* number = value.as<std::uint64_t>();
            if (number == nullptr || *number < low || *number > high) {
              const auto expected = fmt::format("a whole number from {} to {}", low, high);
              return invalid(number == nullptr ? value : Value(std::to_string(*number)), expected);
            }
            set(*number);
            return {};
          },
          .get = [get = std::move(get)] { return Value(get()); }};
}

Item size(std::uint64_t& target) {
  return {.type = Type::size,
          .set = [&target](const Value& value) -> Result<void> {
            const auto* number = value.as<std::uint64_t>();
            if (number == nullptr) return invalid(value, "a number or a size such as 512M");
            target = *number;
            return {};
          },
          .get = [&target] { return Value(target); }};
}

Item checked(Item item, std::function<Result<void>()> check) {
  auto set = [set = std::move(item.set), check](const Value& value) -> Result<void> {
    TRY(set(value));
    return check();
  };
  return {item.type, std::move(set), std::move(item.get)};
}

Value attached(Value value, Sides sides) {
  const auto is_empty = [](const Value& one) {
    const auto* object = one.as<Object>();
    return object != nullptr && object->empty();
  };
  const auto* list = value.as<List>();
  const bool nothing = list != nullptr ? std::ranges::all_of(*list, is_empty) : is_empty(value);
  return sides == Sides::host && nothing ? Value() : value;
}

}  // namespace vmm::spec
