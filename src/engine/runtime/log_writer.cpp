#include "src/engine/runtime/log_writer.h"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "src/base/file_time.h"
#include "src/engine/image/manifest.h"
#include "src/engine/runtime/container.h"

namespace vmm::engine {
namespace {

constexpr std::size_t kLongestLine = 16384;

// Before a character that is cut in two.
std::size_t whole_characters(std::string_view text) {
  std::size_t end = text.size();
  for (int back = 0; back < 4 && end > 0; ++back) {
    const auto byte = static_cast<unsigned char>(text[--end]);
    if (byte < 0x80) break;
    if (byte >= 0xc0) return end == 0 ? text.size() : end;
  }
  return text.size();
}

// A JSON string. What is plain, as nearly all is, needs no library.
std::string quoted(std::string_view text) {
  const bool has_end = text.ends_with('\n');
  const auto inner = text.substr(0, text.size() - (has_end ? 1 : 0));
  const auto is_plain = [](char c) { return c >= ' ' && c < 0x7f && c != '"' && c != '\\'; };
  if (!std::ranges::all_of(inner, is_plain)) {
    return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  return fmt::format(R"("{}{}")", inner, has_end ? R"(\n)" : "");
}

bool ends_with_line(int fd, std::uint64_t size) {
  std::byte last{};
  return size == 0 || (read_exact_at(fd, {&last, 1}, size - 1) && last == std::byte{'\n'});
}

}  // namespace

// Lines that came together have one time.
const std::string& LogWriter::time_text(std::int64_t time) {
  if (time != last_time_) last_time_text_ = format_nanoseconds(last_time_ = time);
  return last_time_text_;
}

std::string format_nanoseconds(std::int64_t time) {
  auto text = format_time(time / kNanosecondsPerSecond);
  text.pop_back();  // Z
  return fmt::format("{}.{:09}Z", text, time % kNanosecondsPerSecond);
}

std::string format_nanoseconds_short(std::int64_t time) {
  auto text = format_nanoseconds(time);
  text.pop_back();
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text + "Z";
}

Result<LogWriter> LogWriter::open(std::string path, std::uint64_t size, std::uint32_t files) {
  auto file = TRY(open_file(path, O_RDWR | O_CREAT | O_APPEND));
  struct stat status{};
  if (::fstat(file.get(), &status) < 0) return fail_errno("cannot read '{}'", path);
  auto written = static_cast<std::uint64_t>(status.st_size);
  LogWriter writer(std::move(path), std::move(file), written, size, files);
  // What a killed supervisor began stays a line of its own.
  if (!ends_with_line(writer.file_.get(), written) && ::write(writer.file_.get(), "\n", 1) == 1) {
    ++writer.written_;
  }
  return writer;
}

void LogWriter::write(wire::Stream stream, std::string_view bytes) {
  auto& pending = pending_[stream == wire::Stream::output ? 0 : 1];
  const auto time = now_in_nanoseconds();
  while (!bytes.empty()) {
    if (pending.text.empty()) pending.time = time;
    const auto end = bytes.find('\n');
    const auto room = kLongestLine - pending.text.size();
    const auto part =
        bytes.substr(0, std::min(end == std::string_view::npos ? end : end + 1, room));
    pending.text += part;
    bytes.remove_prefix(part.size());
    if (!pending.text.ends_with('\n') && pending.text.size() < kLongestLine) continue;
    const auto whole =
        pending.text.ends_with('\n') ? pending.text.size() : whole_characters(pending.text);
    add_line(stream, std::string_view(pending.text).substr(0, whole), pending.time);
    pending.text.erase(0, whole);
  }
  flush();
}

void LogWriter::finish() {
  for (const auto stream : {wire::Stream::output, wire::Stream::error}) {
    auto& pending = pending_[stream == wire::Stream::output ? 0 : 1];
    if (!pending.text.empty()) add_line(stream, pending.text, pending.time);
    pending.text.clear();
  }
  flush();
}

void LogWriter::add_line(wire::Stream stream, std::string_view text, std::int64_t time) {
  const auto bytes = fmt::format(R"({{"log":{},"stream":"{}","time":"{}"}})"
                                 "\n",
                                 quoted(text), stream == wire::Stream::output ? "stdout" : "stderr",
                                 time_text(time));
  if (written_ + lines_.size() > 0 && written_ + lines_.size() + bytes.size() > size_) {
    flush();
    rotate();
  }
  lines_ += bytes;
}

void LogWriter::flush() {
  const auto lines = std::exchange(lines_, {});
  if (write_all(file_.get(), std::as_bytes(std::span(lines)))) {
    written_ += lines.size();
  } else if (struct stat status{}; ::fstat(file_.get(), &status) == 0) {
    // A full disk: what is there of the lines goes, so that the next one is whole.
    if (static_cast<std::uint64_t>(status.st_size) > written_) {
      (void)!::ftruncate(file_.get(), static_cast<off_t>(written_));
    }
  }
}

void LogWriter::rotate() {
  if (files_ < 2) {
    if (::ftruncate(file_.get(), 0) == 0) written_ = 0;
    return;
  }
  for (std::uint32_t number = files_ - 1; number > 1; --number) {
    (void)::rename(fmt::format("{}.{}", path_, number - 1).c_str(),
                   fmt::format("{}.{}", path_, number).c_str());  // or there is none yet
  }
  if (::rename(path_.c_str(), (path_ + ".1").c_str()) < 0) return;
  auto next = open_file(path_, O_RDWR | O_CREAT | O_APPEND);
  if (!next) return;  // goes on in the old one
  file_ = std::move(*next);
  written_ = 0;
}

}  // namespace vmm::engine
