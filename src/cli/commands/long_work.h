// LongWork: runs what may take long. On a terminal a bar says how far it is; Ctrl-C, SIGTERM and
// SIGHUP cancel it, and it undoes what it did.
//
//   TRY(run_long(words.progress, fmt::format("'{}' was not created", target),
//                [&](Progress& progress) { return qcow2::convert(options, progress); }));
#pragma once

#include <memory>
#include <string>

#include "src/base/progress.h"
#include "src/base/result.h"

namespace vmm::cli {

enum class ProgressDisplay : std::uint8_t { none, plain, bar };

// Of the option --progress. `automatic` is a bar on a terminal, else nothing.
inline constexpr const char* kProgressHelp =
    "of long work (auto: a bar on a terminal, else nothing)";
Result<ProgressDisplay> parse_progress(const std::string& mode);

class LongWork {
 public:
  explicit LongWork(ProgressDisplay display);
  LongWork(const LongWork&) = delete;
  LongWork& operator=(const LongWork&) = delete;
  ~LongWork();

  Progress& progress();
  // The work has returned: nothing more is drawn, signals are as before. After one that cancelled
  // it, says "interrupted: WHAT" and ends the process by that signal, as whoever waits for it
  // expects.
  void finish(bool succeeded, const std::string& what);

 private:
  struct Display;
  void restore_signals();

  JobProgress job_;
  std::unique_ptr<Display> display_;
  bool finished_ = false;
};

template <typename Work>
auto run_long(const std::string& mode, const std::string& if_interrupted, Work work)
    -> decltype(work(Progress::none())) {
  LongWork watched(TRY(parse_progress(mode)));
  auto result = work(watched.progress());
  watched.finish(result.has_value(), if_interrupted);
  return result;
}

}  // namespace vmm::cli
