// Value: what JSON can say of a machine, without a JSON library: switches, whole numbers, texts,
// lists and objects whose members keep their order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace vmm::spec {

struct Value;
struct Member;
using List = std::vector<Value>;
using Object = std::vector<Member>;

struct Value {
  std::variant<std::monostate, bool, std::uint64_t, std::string, List, Object> data;

  Value();  // nothing was said
  explicit Value(bool on);
  explicit Value(std::uint64_t number);
  explicit Value(std::string text);
  explicit Value(List list);
  explicit Value(Object object);
  // Not here: compilers take minutes and see unset values where there are none.
  Value(const Value& other);
  Value(Value&& other) noexcept;
  Value& operator=(const Value& other);
  Value& operator=(Value&& other) noexcept;
  ~Value();

  bool empty() const { return std::holds_alternative<std::monostate>(data); }
  template <typename T>
  const T* as() const {
    return std::get_if<T>(&data);
  }
};

struct Member {
  std::string key;
  Value value;
};

bool operator==(const Value& one, const Value& other);
bool operator==(const Member& one, const Member& other);

}  // namespace vmm::spec
