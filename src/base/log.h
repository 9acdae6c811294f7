// The log: levels chosen by who must read the line. Lines go to standard error or a file.
//
//   log::warn("disk '{}': discard is not supported by the host file system", path);
//
// A line that a guest can provoke takes a RateLimit, so that no guest fills the log (tools/check
// holds it for devices, KVM and vCPUs):
//
//   log::warn_limited(limit_, "queue {}: {}", index, error.message());
#pragma once

#include <fmt/core.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/result.h"

namespace vmm::log {

enum class Level : std::uint8_t { trace, debug, info, warn, error, off };

// The names `trace`, `debug`, ... as --log-level takes them.
Result<Level> parse_level(std::string_view name);

// Called once by main, before threads. An empty path means standard error.
Result<void> configure(Level level, const std::string& file);

Level level();
void write(Level level, std::string_view text);

// At most `burst` lines, then one a second. Any thread.
class RateLimit {
 public:
  explicit RateLimit(std::uint32_t burst = 10) : tokens_(burst) {}
  bool allow();

 private:
  std::atomic<std::uint32_t> tokens_;
  std::atomic<std::int64_t> last_second_{0};
};

template <typename... Args>
void at(Level wanted, fmt::format_string<Args...> format, Args&&... args) {
  if (wanted >= level()) write(wanted, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void trace(fmt::format_string<Args...> format, Args&&... args) {
  at(Level::trace, format, std::forward<Args>(args)...);
}
template <typename... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  at(Level::debug, format, std::forward<Args>(args)...);
}
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  at(Level::info, format, std::forward<Args>(args)...);
}
template <typename... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  at(Level::warn, format, std::forward<Args>(args)...);
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  at(Level::error, format, std::forward<Args>(args)...);
}
template <typename... Args>
void at_limited(Level wanted, RateLimit& limit, fmt::format_string<Args...> format,
                Args&&... args) {
  if (wanted >= level() && limit.allow()) {
    write(wanted, fmt::format(format, std::forward<Args>(args)...));
  }
}
template <typename... Args>
void warn_limited(RateLimit& limit, fmt::format_string<Args...> format, Args&&... args) {
  at_limited(Level::warn, limit, format, std::forward<Args>(args)...);
}
template <typename... Args>
void error_limited(RateLimit& limit, fmt::format_string<Args...> format, Args&&... args) {
  at_limited(Level::error, limit, format, std::forward<Args>(args)...);
}

}  // namespace vmm::log
