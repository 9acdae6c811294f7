// The text form of a device, "root.img,ro,serial=X", and the JSON object that says the same:
// {"path": "root.img", "ro": true, "serial": "X"}.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/result.h"

namespace vmm::config {

// Words between single commas; a doubled comma stands for one.
std::vector<std::string> split_words(std::string_view text);

struct Word {
  std::string key;
  std::string value;
  bool has_value = false;  // "key=value" rather than "key"
};
Word split_word(std::string_view word);

// `positional` is the key of the first word, which may leave it away ("a=b.img" is then the whole
// path, as it has another key); empty: that word is as all others.
nlohmann::json to_object(std::string_view text, std::string_view positional);
// From an object, or a text, which is taken as it is. `what` is for the error.
Result<std::string> to_text(const nlohmann::json& value, std::string_view positional,
                            std::string_view what);

}  // namespace vmm::config
