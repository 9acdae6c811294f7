// LogWriter: what a container writes, as lines of JSON with stream and time, as Docker's json-file:
//
//   {"log":"hi\n","stream":"stdout","time":"2026-11-30T07:00:00.123456789Z"}
//
// A line is written when it is whole, has 16 KiB, or at the end. At `size` bytes the file becomes
// PATH.1, that one PATH.2, and so on, `files` altogether. A disk that is full costs lines, never
// the container.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/unique_fd.h"
#include "src/engine/runtime/wire.h"

namespace vmm::engine {

class LogWriter {
 public:
  static Result<LogWriter> open(std::string path, std::uint64_t size, std::uint32_t files);

  void write(wire::Stream stream, std::string_view bytes);
  void finish();  // lines without an end

 private:
  struct Pending {
    std::string text;
    std::int64_t time = 0;  // of its first byte
  };
  LogWriter(std::string path, UniqueFd file, std::uint64_t written, std::uint64_t size,
            std::uint32_t files)
      : path_(std::move(path)),
        file_(std::move(file)),
        written_(written),
        size_(size),
        files_(files) {}
  void add_line(wire::Stream stream, std::string_view text, std::int64_t time);
  void flush();
  const std::string& time_text(std::int64_t time);
  void rotate();

  std::string path_;
  UniqueFd file_;
  std::uint64_t written_, size_;
  std::uint32_t files_;
  std::array<Pending, 2> pending_;
  std::string lines_;  // of one write()
  std::int64_t last_time_ = 0;
  std::string last_time_text_;
};

std::string format_nanoseconds(std::int64_t time);  // 2026-11-30T07:00:00.000000001Z, RFC 3339
// The same with trailing zeros of the fraction left out, as Go's RFC3339Nano.
std::string format_nanoseconds_short(std::int64_t time);

}  // namespace vmm::engine
