#include "src/engine/runtime/log_reader.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "src/base/file_time.h"
#include "src/base/json.h"
#include "src/engine/image/manifest.h"

namespace vmm::engine {
namespace {

constexpr std::size_t kChunk = 65536;

std::optional<LogLine> parse_line(std::string_view text) {
  const auto json = parse_json(text);
  if (!json || !json->is_object()) return std::nullopt;
  const auto field = [&json](const char* name) -> std::string {
    const auto found = json->find(name);
    return found == json->end() || !found->is_string() ? "" : found->get<std::string>();
  };
  LogLine line;
  line.text = field("log");
  line.stream = field("stream") == "stderr" ? wire::Stream::error : wire::Stream::output;
  line.time_text = field("time");
  const auto time = parse_time(line.time_text);
  const auto dot = line.time_text.find('.');
  if (!time || dot == std::string::npos) return std::nullopt;
  line.time = *time * kNanosecondsPerSecond + std::atoll(line.time_text.c_str() + dot + 1);
  return line;
}

std::uint64_t size_of(const UniqueFd& file) {
  struct stat status{};
  return ::fstat(file.get(), &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

bool is_same(const UniqueFd& one, const UniqueFd& other) {
  struct stat a{}, b{};
  return ::fstat(one.get(), &a) == 0 && ::fstat(other.get(), &b) == 0 && a.st_ino == b.st_ino &&
         a.st_dev == b.st_dev;
}

// Where the last `lines` lines of a file begin; how many it has of them.
Result<std::pair<std::uint64_t, std::uint64_t>> find_tail(const UniqueFd& file,
                                                          std::uint64_t lines) {
  std::array<std::byte, kChunk> chunk;
  std::uint64_t found = 0, end = size_of(file);
  const auto size = end;
  while (end > 0) {
    const auto length = std::min<std::uint64_t>(end, chunk.size());
    const auto part = std::span(chunk).first(length);
    TRY(read_exact_at(file.get(), part, end - length));
    for (std::uint64_t i = length; i > 0; --i) {
      if (part[i - 1] != std::byte{'\n'}) continue;
      const auto at = end - length + i;
      if (at == size) continue;  // the end of the last line
      if (++found == lines) return std::pair(at, found);
    }
    end -= length;
  }
  return std::pair(std::uint64_t{0}, size == 0 ? found : found + 1);
}

}  // namespace

Result<LogReader> LogReader::open(const std::string& directory, const LogSelection& selection) {
  UniqueFd changes(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!changes || ::inotify_add_watch(changes.get(), directory.c_str(),
                                      IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0) {
    return fail_errno("cannot watch '{}'", directory);
  }
  LogReader reader(directory, selection, std::move(changes));
  TRY(reader.open_files());
  if (selection.tail) TRY(reader.go_to_tail());
  return reader;
}

// From the newest to the oldest: one that becomes an older one meanwhile is seen twice, not missed.
Result<void> LogReader::open_files() {
  for (std::uint32_t number = 0;; ++number) {
    auto file = open_file(
        number == 0 ? directory_ + "/log" : fmt::format("{}/log.{}", directory_, number), O_RDONLY);
    if (!file && number == 0) continue;  // just rotated, or not started yet
    if (!file) break;
    if (files_.empty() || !is_same(files_.back(), *file)) files_.push_back(std::move(*file));
  }
  std::ranges::reverse(files_);
  return {};
}

Result<void> LogReader::go_to_tail() {
  auto left = *selection_.tail;
  file_ = files_.size();
  while (file_ > 0 && left > 0) {
    --file_;
    const auto [at, found] = TRY(find_tail(files_[file_], left));
    offset_ = at;
    left -= std::min(left, found);
  }
  if (*selection_.tail == 0 && !files_.empty()) {
    file_ = files_.size() - 1;
    offset_ = size_of(files_[file_]);
  }
  return {};
}

void LogReader::take_changes() const {
  std::array<char, 4096> events;
  while (::read(changes_.get(), events.data(), events.size()) > 0) {
  }
}

// Whether there is a later file than the one that was read to its end.
bool LogReader::turn_to_next_file() {
  if (file_ + 1 >= files_.size()) {
    auto newest = open_file(directory_ + "/log", O_RDONLY);
    if (!newest || (!files_.empty() && is_same(files_.back(), *newest))) return false;
    files_.push_back(std::move(*newest));
    if (files_.size() == 1) return true;
  }
  ++file_;
  offset_ = 0;
  return true;
}

Result<bool> LogReader::read_more() {
  for (;;) {
    if (file_ < files_.size()) {
      std::array<char, kChunk> chunk;
      const ssize_t n =
          ::pread(files_[file_].get(), chunk.data(), chunk.size(), static_cast<off_t>(offset_));
      if (n < 0 && errno != EINTR) return fail_errno("cannot read '{}/log'", directory_);
      if (n > 0) {
        buffer_.append(chunk.data(), static_cast<std::size_t>(n));
        offset_ += static_cast<std::uint64_t>(n);
        return true;
      }
      if (size_of(files_[file_]) < offset_) offset_ = 0;  // it began anew
    }
    if (!turn_to_next_file()) return false;
  }
}

Result<std::optional<LogLine>> LogReader::next() {
  for (;;) {
    const auto end = buffer_.find('\n');
    if (end == std::string::npos) {
      if (!TRY(read_more())) return std::optional<LogLine>();
      continue;
    }
    auto line = parse_line(std::string_view(buffer_).substr(0, end));
    buffer_.erase(0, end + 1);
    if (!line) continue;
    if (selection_.since && line->time < *selection_.since) continue;
    if (selection_.until && line->time > *selection_.until) continue;
    return line;
  }
}

}  // namespace vmm::engine
