// Values as JSON text.
//
//   const Value root = TRY(parse_value(text));    // bounds of src/base/json.h
//   const std::string text = TRY(to_json(root));  // two spaces of indentation, no line end behind
//   it
#pragma once

#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/spec/value.h"

namespace vmm::spec {

// Comments are ignored. Refused: what no specification has, such as null, fractions and negative
// numbers.
Result<Value> parse_value(std::string_view text);
// Error: a text in it is not UTF-8, which JSON cannot carry.
Result<std::string> to_json(const Value& value);

// A value in a message: short, and nothing in it moves a terminal's cursor.
std::string shown(const Value& value);

}  // namespace vmm::spec
