// Structures as JSON objects, by the fields() that they declare. Numbers are numbers, switches are
// booleans; an empty optional is no key, a key that is missing leaves the default.
#pragma once

#include <nlohmann/json.hpp>

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/text.h"
#include "src/protocol/json_text.h"

namespace vmm::protocol {

// Texts and numbers are not.
template <typename T>
concept Structure = std::is_class_v<T> && !std::same_as<T, std::string>;

class JsonWriter {
 public:
  template <typename T>
  void operator()(const char* key, const T& value) {
    add(key, value);
  }
  nlohmann::json object = nlohmann::json::object();

 private:
  void add(const char* key, const JsonText& value) {
    object[key] = nlohmann::json::parse(value.text, nullptr, false);
  }
  template <typename T>
  void add(const char* key, const std::optional<T>& value) {
    if (value) add(key, *value);
  }
  template <typename T>
  void add(const char* key, const std::vector<T>& list) {
    object[key] = nlohmann::json::array();
    for (const T& element : list) {
      if constexpr (Structure<T>) {
        JsonWriter writer;
        T::fields(element, writer);
        object[key].push_back(std::move(writer.object));
      } else {
        object[key].push_back(element);
      }
    }
  }
  template <typename T>
  void add(const char* key, const T& value) {
    object[key] = value;
  }
};

// Remembers the first thing that is wrong.
class JsonReader {
 public:
  explicit JsonReader(const nlohmann::json& object) : object_(object) {}

  template <typename T>
  void operator()(const char* key, T& value) {
    known_.emplace_back(key);
    const auto it = object_.find(key);
    if (it != object_.end()) read(key, *it, value);
  }
  // The fields were all asked for: error, what is wrong with them. `others`: keys that are no
  // fields.
  enum class Others : std::uint8_t { refused, ignored };
  Result<void> result(std::string_view what, Others others) const {
    if (!error_.empty()) return fail("{}: {}", what, error_);
    if (others == Others::ignored) return {};
    const std::vector<std::string_view> known(known_.begin(), known_.end());
    for (const auto& [key, value] : object_.items()) {
      if (std::ranges::find(known, key) == known.end()) {
        return fail("{}: unknown argument '{}'{}", what, key, did_you_mean(key, known));
      }
    }
    return {};
  }

 private:
  void expected(const char* key, const nlohmann::json& found, std::string_view what) {
    if (!error_.empty()) return;
    // What is long says as much by its first words.
    const auto text = found.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    error_ = fmt::format("invalid {} {}: expected {}", key, text.substr(0, 100), what);
  }
  void read(const char* key, const nlohmann::json& found, std::string& value) {
    if (!found.is_string()) return expected(key, found, "a text");
    value = found.get<std::string>();
  }
  void read(const char* key, const nlohmann::json& found, JsonText& value) {
    if (!found.is_object() && !found.is_string()) {
      return expected(key, found, "an object or a text");
    }
    value.text = found.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  void read(const char* key, const nlohmann::json& found, bool& value) {
    if (!found.is_boolean()) return expected(key, found, "true or false");
    value = found.get<bool>();
  }
  void read(const char* key, const nlohmann::json& found, std::uint64_t& value) {
    if (!found.is_number_unsigned()) return expected(key, found, "a whole number from 0");
    value = found.get<std::uint64_t>();
  }
  void read(const char* key, const nlohmann::json& found, std::int64_t& value) {
    if (!found.is_number_integer()) return expected(key, found, "a whole number");
    value = found.get<std::int64_t>();
  }
  void read(const char* key, const nlohmann::json& found, double& value) {
    if (!found.is_number()) return expected(key, found, "a number");
    value = found.get<double>();
  }
  template <typename T>
  void read(const char* key, const nlohmann::json& found, std::optional<T>& value) {
    read(key, found, value.emplace());
  }
  template <typename T>
  void read(const char* key, const nlohmann::json& found, std::vector<T>& list) {
    if (!found.is_array()) return expected(key, found, "a list");
    for (const auto& element : found) {
      if constexpr (Structure<T>) {
        if (!element.is_object()) return expected(key, element, "an object");
        JsonReader reader(element);
        T::fields(list.emplace_back(), reader);
        if (error_.empty()) error_ = reader.error_;
      } else {
        read(key, element, list.emplace_back());
      }
    }
  }

  const nlohmann::json& object_;
  std::vector<std::string> known_;
  std::string error_;
};

}  // namespace vmm::protocol
