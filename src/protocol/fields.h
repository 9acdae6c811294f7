// Messages as numbered fields: one declaration of a message serves both directions.
//
//   struct Resize {
//     std::uint16_t columns = 0, rows = 0;
//     static void fields(auto& message, auto& archive) {
//       archive(1, message.columns);
//       archive(2, message.rows);
//     }
//   };
//   const std::string bytes = encode_fields(Resize{80, 24});
//   const auto resize = TRY(decode_fields<Resize>(bytes));
//
// A field is its number (1 byte), the length of its value (4 bytes) and the value; integers are
// little-endian. A number or an enumeration takes 8 bytes, a text its bytes, a message its fields;
// a list is its field once an element, an empty optional is no field. The reader ignores numbers
// that it does not know, and leaves what is missing at its default: a newer side may say more.
//
// Not JSON: arguments, environment and paths are any bytes but NUL, which JSON cannot carry.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "src/base/result.h"

namespace vmm::protocol {

// Any bytes. A std::string of a message is a text: without NUL, at which a path would end.
using Bytes = std::vector<std::byte>;

template <typename T>
std::string encode_fields(const T& message);
template <typename T>
Result<T> decode_fields(std::string_view bytes);

void append_integer(std::string& out, std::uint64_t value, unsigned bytes);
std::uint64_t read_integer(std::string_view bytes);  // of all of them, at most 8

class FieldWriter {
 public:
  template <typename T>
  void operator()(std::uint8_t number, const T& value) {
    add(number, value);
  }
  std::string take() { return std::move(bytes_); }

 private:
  void field(std::uint8_t number, std::string_view value);
  void add(std::uint8_t number, const std::string& text) { field(number, text); }
  void add(std::uint8_t number, const Bytes& bytes) {
    field(number, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  template <typename T>
  void add(std::uint8_t number, const std::optional<T>& value) {
    if (value) add(number, *value);
  }
  template <typename T>
  void add(std::uint8_t number, const std::vector<T>& list) {
    for (const T& element : list) add(number, element);
  }
  template <typename T>
  void add(std::uint8_t number, const T& value) {
    if constexpr (std::integral<T> || std::is_enum_v<T>) {
      std::string integer;
      append_integer(integer, static_cast<std::uint64_t>(value), 8);
      field(number, integer);
    } else {
      field(number, encode_fields(value));
    }
  }

  std::string bytes_;
};

class FieldReader {
 public:
  static Result<FieldReader> create(std::string_view bytes);

  template <typename T>
  void operator()(std::uint8_t number, T& value) {
    for (const auto& [found, bytes] : fields_) {
      if (found == number && !error_) set(number, value, bytes);
    }
  }
  const std::optional<Error>& error() const { return error_; }

 private:
  using Field = std::pair<std::uint8_t, std::string_view>;

  explicit FieldReader(std::vector<Field> fields) : fields_(std::move(fields)) {}
  void set(std::uint8_t number, std::string& text, std::string_view bytes);
  void set(std::uint8_t number, Bytes& value, std::string_view bytes);
  void complain(std::uint8_t number, std::string_view what);
  // The number in a field, if it is at most `limit`.
  std::optional<std::uint64_t> integer(std::uint8_t number, std::string_view bytes,
                                       std::uint64_t limit);

  template <typename T>
  void set(std::uint8_t number, std::optional<T>& value, std::string_view bytes) {
    set(number, value.emplace(), bytes);
  }
  template <typename T>
  void set(std::uint8_t number, std::vector<T>& list, std::string_view bytes) {
    set(number, list.emplace_back(), bytes);
  }
  template <typename T>
  void set(std::uint8_t number, T& value, std::string_view bytes) {
    if constexpr (std::same_as<T, bool>) {
      if (const auto found = integer(number, bytes, 1)) value = *found == 1;
    } else if constexpr (std::is_enum_v<T>) {
      // An enumeration of a message names its last value `last`.
      if (const auto found = integer(number, bytes, static_cast<std::uint64_t>(T::last))) {
        value = static_cast<T>(*found);
      }
    } else if constexpr (std::unsigned_integral<T>) {
      if (const auto found = integer(number, bytes, static_cast<T>(~T{}))) {
        value = static_cast<T>(*found);
      }
    } else {
      auto message = decode_fields<T>(bytes);
      if (message) {
        value = std::move(*message);
      } else {
        error_ = std::move(message.error());
      }
    }
  }

  std::vector<Field> fields_;
  std::optional<Error> error_;
};

template <typename T>
std::string encode_fields(const T& message) {
  FieldWriter writer;
  T::fields(message, writer);
  return writer.take();
}

template <typename T>
Result<T> decode_fields(std::string_view bytes) {
  auto reader = TRY(FieldReader::create(bytes));
  T message;
  T::fields(message, reader);
  if (reader.error()) return std::unexpected(*reader.error());
  return message;
}

}  // namespace vmm::protocol
