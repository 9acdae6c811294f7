#include "src/cli/commands/progress_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "src/base/text.h"

namespace vmm::cli {
namespace {

constexpr std::chrono::seconds kWindow{5};
constexpr std::chrono::milliseconds kLeast{300};  // before it, a rate is a guess
constexpr std::size_t kShortestBar = 10, kLongestBar = 40;
constexpr double kLongest = 100.0 * 3600;  // seconds; a longer time left is not told

std::string percentage(const JobProgress::State& state) {
  // What was measured may have been a little less than there was to do.
  const double part =
      static_cast<double>(std::min(state.done, state.total)) / static_cast<double>(state.total);
  return fmt::format("{}%", static_cast<unsigned>(part * 100));
}

// "0:05", "12:34", "1:02:03".
std::string time_in_words(double seconds) {
  const auto whole = static_cast<std::uint64_t>(seconds + 0.999);
  const auto minutes = whole / 60 % 60;
  if (whole < 3600) return fmt::format("{}:{:02}", minutes, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, minutes, whole % 60);
}

// What is known behind the percentage, the most important first.
std::vector<std::string> details(const JobProgress::State& state, double rate) {
  std::vector<std::string> texts;
  const auto done = std::min(state.done, state.total);
  texts.push_back(fmt::format("{} of {}", size_in_words(done), size_in_words(state.total)));
  if (rate < 1) return texts;
  texts.push_back(fmt::format("{}/s", size_in_words(static_cast<std::uint64_t>(rate))));
  const double left = static_cast<double>(state.total - done) / rate;
  if (left < kLongest) texts.push_back(fmt::format("{} left", time_in_words(left)));
  return texts;
}

std::string bar(const JobProgress::State& state, std::size_t columns) {
  const double part =
      static_cast<double>(std::min(state.done, state.total)) / static_cast<double>(state.total);
  std::string text(static_cast<std::size_t>(part * static_cast<double>(columns)), '=');
  if (text.size() < columns) text += '>';
  text.resize(columns, ' ');
  return text;
}

}  // namespace

double RateMeter::add(const JobProgress::State& state, Time now) {
  if (state.phase != phase_ || (!samples_.empty() && state.done < samples_.back().done)) {
    samples_.clear();
    phase_ = state.phase;
  }
  samples_.push_back({now, state.done});
  while (now - samples_.front().time > kWindow) samples_.pop_front();
  const auto passed = now - samples_.front().time;
  if (passed < kLeast) return 0;
  return static_cast<double>(state.done - samples_.front().done) /
         std::chrono::duration<double>(passed).count();
}

std::string progress_bar(const JobProgress::State& state, double rate, std::size_t width) {
  if (state.total == 0) return std::string(state.phase.substr(0, width));
  const std::string phase(state.phase);
  const auto with_bar = [&](std::size_t columns) {
    return fmt::format("{} [{}] {:>4}", phase, bar(state, columns), percentage(state));
  };
  std::string rest;
  for (const auto& text : details(state, rate)) rest += "  " + text;
  const std::size_t around = with_bar(0).size() + rest.size();
  if (around + kShortestBar <= width) {
    return with_bar(std::min(width - around, kLongestBar)) + rest;
  }
  std::string line = fmt::format("{} {}", phase, percentage(state));
  for (const auto& text : details(state, rate)) {
    if (line.size() + 2 + text.size() > width) break;
    line += "  " + text;
  }
  return line.size() <= width ? line : percentage(state).substr(0, width);
}

std::string progress_line(const JobProgress::State& state, double rate) {
  if (state.total == 0) return std::string(state.phase);
  return fmt::format("{}: {}, {}", state.phase, percentage(state),
                     fmt::join(details(state, rate), ", "));
}

}  // namespace vmm::cli
