// LogReader: the lines of a container's log (log_writer.h), across its files, as they come.
//
//   auto reader = TRY(LogReader::open(directory, {.tail = 10}));
//   while (auto line = TRY(reader.next())) print(line->text);
//   ... poll reader.changes(); reader.take_changes(); more lines ...
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/base/unique_fd.h"
#include "src/engine/runtime/wire.h"

namespace vmm::engine {

struct LogLine {
  std::string text;  // with its end, if it has one
  wire::Stream stream = wire::Stream::output;
  std::int64_t time = 0;  // nanoseconds since 1970
  std::string time_text;
};

struct LogSelection {
  std::optional<std::int64_t> since, until;  // nanoseconds since 1970
  std::optional<std::uint64_t> tail;         // lines from the end
};

class LogReader {
 public:
  static Result<LogReader> open(const std::string& directory, const LogSelection& selection);

  // None: there is no more now. What is not a line of a log is passed over.
  Result<std::optional<LogLine>> next();
  int changes() const { return changes_.get(); }
  void take_changes() const;

 private:
  LogReader(std::string directory, LogSelection selection, UniqueFd changes)
      : directory_(std::move(directory)), selection_(selection), changes_(std::move(changes)) {}
  Result<void> open_files();
  Result<void> go_to_tail();
  Result<bool> read_more();
  bool turn_to_next_file();

  std::string directory_;
  LogSelection selection_;
  UniqueFd changes_;             // inotify
  std::vector<UniqueFd> files_;  // the oldest first; the last one grows
  std::size_t file_ = 0;
  std::uint64_t offset_ = 0;
  std::string buffer_;
};

}  // namespace vmm::engine
