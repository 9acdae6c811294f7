#include "src/base/log.h"

#include <fcntl.h>

#include <array>
#include <ctime>
#include <memory>
#include <mutex>

#include "src/base/unique_fd.h"

// spdlog is seen by this file alone: it costs ten seconds to compile.
#define SPDLOG_HEADER_ONLY
#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

namespace vmm::log {
namespace {

constexpr std::array<std::string_view, 6> kNames = {"trace", "debug", "info",
                                                    "warn",  "error", "off"};

std::atomic<Level> current_level{Level::warn};
spdlog::logger* logger = nullptr;  // lives as long as the process

// Lines at the end of a file. spdlog's own sink makes folders that are missing, and waits for the
// reader of a FIFO.
class FileSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FileSink(UniqueFd file) : file_(std::move(file)) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    // A full disk has no place for a complaint either.
    (void)write_all(file_.get(), std::as_bytes(std::span(line.data(), line.size())));
  }
  void flush_() override {}

 private:
  UniqueFd file_;
};

void set_sink(std::shared_ptr<spdlog::sinks::sink> sink) {
  static std::shared_ptr<spdlog::logger> owner;
  owner = std::make_shared<spdlog::logger>("vmm", std::move(sink));
  owner->set_level(spdlog::level::trace);
  owner->set_formatter(
      std::make_unique<spdlog::pattern_formatter>("%Y-%m-%dT%H:%M:%S.%f vmm %l: %v"));
  owner->flush_on(spdlog::level::trace);
  logger = owner.get();
}

}  // namespace

Result<Level> parse_level(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Level>(i);
  }
  return fail("'{}' is not a log level: trace, debug, info, warn, error or off is", name);
}

Result<void> configure(Level level, const std::string& file) {
  current_level = level;
  if (file.empty()) return {};
  auto opened = open_file(file, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, 0644);
  if (!opened) return fail("--log-file: {}", opened.error().message());
  set_sink(std::make_shared<FileSink>(std::move(*opened)));
  return {};
}

Level level() { return current_level.load(std::memory_order_relaxed); }

void write(Level level, std::string_view text) {
  // The logger for standard error is made by the first line, so that a quiet start pays nothing.
  static const bool ready = [] {
    if (logger == nullptr) set_sink(std::make_shared<spdlog::sinks::stderr_sink_mt>());
    return true;
  }();
  (void)ready;
  logger->log(static_cast<spdlog::level::level_enum>(level), text);
}

bool RateLimit::allow() {
  std::uint32_t left = tokens_.load(std::memory_order_relaxed);
  while (left > 0) {
    if (tokens_.compare_exchange_weak(left, left - 1, std::memory_order_relaxed)) return true;
  }
  const std::int64_t now = std::time(nullptr);
  std::int64_t last = last_second_.load(std::memory_order_relaxed);
  return now != last && last_second_.compare_exchange_strong(last, now, std::memory_order_relaxed);
}

}  // namespace vmm::log
