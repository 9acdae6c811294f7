#include "src/engine/cli/units.h"

#include <fmt/core.h>

#include <array>
#include <ctime>

namespace vmm::engine::cli {

std::string human_size(std::uint64_t bytes, int digits) {
  constexpr std::array kUnits = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1000 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}g}{}", value, digits, kUnits[unit]);
}

std::string human_duration(std::int64_t seconds) {
  const auto minutes = seconds / 60;
  const auto hours = (seconds + 1800) / 3600;  // to the nearest
  if (seconds < 1) return "Less than a second";
  if (seconds == 1) return "1 second";
  if (seconds < 60) return fmt::format("{} seconds", seconds);
  if (minutes == 1) return "About a minute";
  if (minutes < 60) return fmt::format("{} minutes", minutes);
  if (hours == 1) return "About an hour";
  if (hours < 48) return fmt::format("{} hours", hours);
  if (hours < 24 * 7 * 2) return fmt::format("{} days", hours / 24);
  if (hours < 24 * 30 * 2) return fmt::format("{} weeks", hours / 24 / 7);
  if (hours < 24 * 365 * 2) return fmt::format("{} months", hours / 24 / 30);
  return fmt::format("{} years", seconds / 3600 / 24 / 365);
}

std::string human_age(std::int64_t created, std::int64_t now) {
  return created == 0 ? "" : human_duration(now - created) + " ago";
}

std::string local_time(std::int64_t seconds) {
  const auto when = static_cast<std::time_t>(seconds);
  std::tm time{};
  std::array<char, 64> text{};
  if (::localtime_r(&when, &time) == nullptr) return {};
  const auto size = std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S %z %Z", &time);
  return {text.data(), size};
}

}  // namespace vmm::engine::cli
