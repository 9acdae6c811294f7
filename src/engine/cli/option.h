// Option: one option of a command, as data.
#pragma once

#include <cstdint>
#include <string_view>

namespace vmm::engine::cli {

enum class OptionKind : std::uint8_t { flag, text, list };

struct Option {
  char letter;  // 0: none
  std::string_view name;
  std::string_view value;  // of its value: "string"; "": a flag
  std::string_view help;   // "": known, and refused
  OptionKind kind = value_kind(value);

 private:
  static constexpr OptionKind value_kind(std::string_view value) {
    if (value.empty()) return OptionKind::flag;
    return value == "list" || value == "filter" ? OptionKind::list : OptionKind::text;
  }
};

}  // namespace vmm::engine::cli
