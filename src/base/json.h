// The only parser of JSON from files and sockets. nlohmann's own takes any depth, and what walks
// over the result (dump, copies) recurses: a few kilobytes end the process, or print hundreds of
// megabytes. Refused here, before anything is made of it: nesting, objects with many keys (each is
// compared with those before it), and NUL in a text or key, which a path or option would end at.
//
//   const auto root = TRY(parse_json(text));
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/named_values.h"
#include "src/base/result.h"

namespace vmm {

inline constexpr std::size_t kMaxJsonDepth = 32;
inline constexpr std::size_t kMaxJsonKeys = 4096;  // of one object

enum class JsonComments : std::uint8_t { refused, ignored };

// The error says what is wrong, and where.
Result<nlohmann::json> parse_json(std::string_view text,
                                  JsonComments comments = JsonComments::refused);
// Keys stay in the order of the text.
Result<nlohmann::ordered_json> parse_ordered_json(std::string_view text,
                                                  JsonComments comments = JsonComments::refused);

// The values as an object, or a list of objects; keys in the order of the alphabet. On one line, or
// indented by that many spaces. What is not UTF-8 in a text is replaced by U+FFFD.
std::string to_json_text(const NamedValues& values, int indent = -1);
std::string to_json_text(const NamedValuesList& list, int indent = -1);

}  // namespace vmm
