#include "src/engine/cli/detach_keys.h"

#include <cctype>

#include "src/base/text.h"

namespace vmm::engine::cli {

Result<DetachKeys> DetachKeys::parse(std::string_view text) {
  constexpr std::string_view kControl = "ctrl-";
  std::string keys;
  for (const auto key : split(text.empty() ? "ctrl-p,ctrl-q" : text, ',')) {
    if (key.size() == 1) {
      keys += key;
    } else if (key.size() == kControl.size() + 1 && key.starts_with(kControl)) {
      const auto c = static_cast<unsigned char>(std::toupper(static_cast<unsigned char>(key[5])));
      if (c < '@' || c > '_') return fail("invalid detach keys '{}': unknown key '{}'", text, key);
      keys += static_cast<char>(c - '@');
    } else {
      return fail("invalid detach keys '{}': expected keys such as ctrl-p,ctrl-q", text);
    }
  }
  return DetachKeys(std::move(keys));
}

std::string DetachKeys::filter(std::string_view typed) {
  std::string passed;
  for (const char c : typed) {
    if (is_complete()) break;
    if (c == keys_[matched_]) {
      ++matched_;
      continue;
    }
    passed += keys_.substr(0, matched_);
    matched_ = c == keys_[0] ? 1 : 0;
    if (matched_ == 0) passed += c;
  }
  return passed;
}

}  // namespace vmm::engine::cli
