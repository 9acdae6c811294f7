#include "src/base/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <numeric>

namespace vmm {
namespace {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0u : 1u)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  const auto refuse = [text] {
    return fail("invalid size '{}': expected a whole number with K, M, G or T, such as 512M or 2G",
                text);
  };
  std::uint64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc{} || end == text.data()) return refuse();
  std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  unsigned shift = 0;
  if (!unit.empty()) {
    constexpr std::string_view kUnits = "KMGT";
    const char first = static_cast<char>(unit[0] & ~0x20);
    const auto position = kUnits.find(first);
    if (position != std::string_view::npos) {
      shift = 10 * static_cast<unsigned>(position + 1);
      unit.remove_prefix(1);
      if (unit == "iB") unit = "";
    }
    if (unit == "B" || unit == "b") unit = "";
    if (!unit.empty()) return refuse();
  }
  if (shift != 0 && value > (UINT64_MAX >> shift)) return refuse();
  return value << shift;
}

Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t low, std::uint64_t high,
                                   std::string_view what) {
  std::uint64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc{} || end != text.data() + text.size() || value < low || value > high) {
    return fail("invalid {} '{}': expected a whole number from {} to {}", what, text, low, high);
  }
  return value;
}

std::string format_size(std::uint64_t bytes) {
  constexpr std::string_view kUnits = "KMGT";
  std::size_t unit = 0;
  while (unit < kUnits.size() && bytes != 0 && bytes % 1024 == 0) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{}", bytes) : fmt::format("{}{}", bytes, kUnits[unit - 1]);
}

std::string size_in_words(std::uint64_t bytes) {
  constexpr std::array<std::string_view, 5> kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  auto value = static_cast<double>(bytes);
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  // One decimal where it says something: 1.5 GiB, 512 MiB.
  const auto tenths = static_cast<std::uint64_t>(value * 10 + 0.5);
  if (tenths % 10 == 0 || tenths >= 1000) {
    return fmt::format("{} {}", static_cast<std::uint64_t>(value + 0.5), kUnits[unit]);
  }
  return fmt::format("{}.{} {}", tenths / 10, tenths % 10, kUnits[unit]);
}

std::string printable(std::string_view text) {
  const auto at = [text](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    // U+0080 to U+009F are C2 80 to C2 9F.
    const bool is_c1 = at(i) == 0xc2 && at(i + 1) >= 0x80 && at(i + 1) < 0xa0;
    const bool is_control = is_c1 || at(i) == 0x7f || (at(i) < ' ' && text[i] != '\n');
    result += is_control ? '?' : text[i];
    if (is_c1) ++i;
  }
  return result;
}

std::string printable_line(std::string_view text) {
  auto line = printable(text);
  std::ranges::replace(line, '\n', '?');
  return line;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const auto at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

std::string double_commas(std::string_view text) {
  std::string result;
  for (const char c : text) {
    result += c;
    if (c == ',') result += c;
  }
  return result;
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words(1);
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ',') {
      words.back() += text[i];
    } else if (i + 1 < text.size() && text[i + 1] == ',') {
      words.back() += text[++i];
    } else {
      words.emplace_back();
    }
  }
  return words;
}

std::string_view nearest_name(std::string_view name, std::span<const std::string_view> candidates) {
  std::string_view best;
  std::size_t best_distance = std::max<std::size_t>(2, name.size() / 3) + 1;
  for (const auto candidate : candidates) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string did_you_mean(std::string_view name, std::span<const std::string_view> candidates) {
  const auto nearest = nearest_name(name, candidates);
  return nearest.empty() ? std::string() : fmt::format(" (did you mean '{}'?)", nearest);
}

}  // namespace vmm
