#include "src/base/json.h"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace vmm {
namespace {

using nlohmann::json;

// A handler of nlohmann's events that keeps nothing of them. What returns false ends the parsing.
class Checker {
 public:
  const std::string& error() const { return error_; }

  bool null() { return true; }
  bool boolean(bool) { return true; }
  bool number_integer(json::number_integer_t) { return true; }
  bool number_unsigned(json::number_unsigned_t) { return true; }
  bool number_float(json::number_float_t, const std::string&) { return true; }
  bool binary(json::binary_t&) { return refuse("binary data"); }
  bool string(std::string& text) {
    return text.find('\0') == std::string::npos || refuse("a text with a NUL in it");
  }
  bool start_object(std::size_t) { return enter(); }
  bool start_array(std::size_t) { return enter(); }
  bool key(std::string& name) {
    if (++keys_.back() > kMaxJsonKeys) {
      return refuse(fmt::format("an object of more than {} keys", kMaxJsonKeys));
    }
    return string(name);
  }
  bool end_object() { return leave(); }
  bool end_array() { return leave(); }
  bool parse_error(std::size_t, const std::string&, const json::exception& exception) {
    // Without the exception's class; what was read last may be as long as the text.
    constexpr std::size_t kMostWords = 200;
    const std::string_view what = exception.what();
    const auto end = what.find("] ");
    error_ = what.substr(end == std::string_view::npos ? 0 : end + 2).substr(0, kMostWords);
    return false;
  }

 private:
  bool refuse(std::string why) {
    error_ = std::move(why);
    return false;
  }
  bool enter() {
    if (keys_.size() == kMaxJsonDepth) {
      return refuse(fmt::format("nested more than {} deep", kMaxJsonDepth));
    }
    keys_.push_back(0);
    return true;
  }
  bool leave() {
    keys_.pop_back();
    return true;
  }

  std::vector<std::size_t> keys_;  // of each object and list that is open
  std::string error_;
};

json to_json(const NamedValues& values);

json to_json(const NamedValuesList& list) {
  json array = json::array();
  for (const auto& values : list) array.push_back(to_json(values));
  return array;
}

json to_json(const NamedValues& values) {
  json object = json::object();
  for (const auto& [name, value] : values) {
    object[name] = std::visit(
        []<typename T>(const T& one) -> json {
          if constexpr (std::is_same_v<T, NamedValues> || std::is_same_v<T, NamedValuesList>) {
            return to_json(one);
          } else {
            return one;
          }
        },
        value);
  }
  return object;
}

template <typename Json>
Result<Json> parse(std::string_view text, JsonComments comments) {
  const bool ignore = comments == JsonComments::ignored;
  Checker checker;
  if (!json::sax_parse(text, &checker, json::input_format_t::json, /*strict=*/true, ignore)) {
    return fail("{}", checker.error());
  }
  Json root = Json::parse(text, nullptr, /*allow_exceptions=*/false, ignore);
  if (root.is_discarded()) return fail("it cannot be read");
  return root;
}

}  // namespace

Result<json> parse_json(std::string_view text, JsonComments comments) {
  return parse<json>(text, comments);
}

Result<nlohmann::ordered_json> parse_ordered_json(std::string_view text, JsonComments comments) {
  return parse<nlohmann::ordered_json>(text, comments);
}

std::string to_json_text(const NamedValues& values, int indent) {
  return to_json(values).dump(indent, ' ', false, json::error_handler_t::replace);
}

std::string to_json_text(const NamedValuesList& list, int indent) {
  return to_json(list).dump(indent, ' ', false, json::error_handler_t::replace);
}

}  // namespace vmm
