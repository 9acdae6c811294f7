// Small helpers on the texts that people type.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace vmm {

// "512", "64K", "2G"; "1.5G" is refused. Bytes; K, M, G, T are powers of 1024, an optional "iB" or
// "B" may follow. The error says what was expected.
Result<std::uint64_t> parse_size(std::string_view text);
// A whole decimal number within [low, high]; `what` names it in the error.
Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t low, std::uint64_t high,
                                   std::string_view what);
// 2147483648 -> "2G", 1536 -> "1536": the largest unit that is exact.
std::string format_size(std::uint64_t bytes);
// Rounded, for people: "512 MiB", "1.5 GiB".
std::string size_in_words(std::uint64_t bytes);

// With '?' for what moves a terminal's cursor or gives it orders: control characters (C0 but
// newlines, DEL, C1 in UTF-8).
std::string printable(std::string_view text);
// The same of newlines.
std::string printable_line(std::string_view text);

std::vector<std::string_view> split(std::string_view text, char separator);

// The words of an option, between single commas; a doubled comma stands for one in a word.
std::vector<std::string> split_words(std::string_view text);
std::string double_commas(std::string_view text);

// The candidate with the least edit distance, or "" when none is near enough to be meant.
std::string_view nearest_name(std::string_view name, std::span<const std::string_view> candidates);
// " (did you mean 'x'?)" or "".
std::string did_you_mean(std::string_view name, std::span<const std::string_view> candidates);

}  // namespace vmm
