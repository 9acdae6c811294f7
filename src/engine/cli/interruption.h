// Interruption: Ctrl-C, SIGTERM and SIGHUP, for work that can be cancelled and leaves nothing then.
// The next one kills.
//
//   Interruption interruption;
//   const auto made = make(..., interruption);      // a Progress
//   interruption.finish(made.has_value(), "'NAME' was not made");
#pragma once

#include <string_view>

#include "src/base/progress.h"

namespace vmm::engine::cli {

class Interruption final : public Progress {
 public:
  Interruption();
  Interruption(const Interruption&) = delete;
  ~Interruption() override { restore_signals(); }

  static bool has_come();
  void begin(const char* /*phase*/, std::uint64_t /*total*/) override {}
  Result<void> advance(std::uint64_t bytes) override;
  // The work has returned; signals are as they were. After one that cancelled it, says
  // "interrupted: WHAT" and ends the process by that signal, as whoever waits for it expects.
  void finish(bool succeeded, std::string_view what);
  // The same, whatever became of the work: what would follow it is not wanted.
  void finish_all(bool succeeded, std::string_view what);

 private:
  void restore_signals();
  bool has_signals_ = true;
};

}  // namespace vmm::engine::cli
