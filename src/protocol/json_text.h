// A part of a message that somebody else reads: an object or a text, as JSON.
#pragma once

#include <string>

namespace vmm::protocol {

struct JsonText {
  std::string text;
  friend bool operator==(const JsonText&, const JsonText&) = default;
};

}  // namespace vmm::protocol
