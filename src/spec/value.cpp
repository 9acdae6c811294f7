#include "src/spec/value.h"

namespace vmm::spec {

Value::Value() = default;
Value::Value(bool on) : data(on) {}
Value::Value(std::uint64_t number) : data(number) {}
Value::Value(std::string text) : data(std::move(text)) {}
Value::Value(List list) : data(std::move(list)) {}
Value::Value(Object object) : data(std::move(object)) {}
Value::Value(const Value& other) = default;
Value::Value(Value&& other) noexcept = default;
Value& Value::operator=(const Value& other) = default;
Value& Value::operator=(Value&& other) noexcept = default;
Value::~Value() = default;

bool operator==(const Member& one, const Member& other) {
  return one.key == other.key && one.value == other.value;
}
bool operator==(const Value& one, const Value& other) { return one.data == other.data; }

}  // namespace vmm::spec
