// Progress: how long work says how far it is, and learns that it should stop.
//
//   Result<void> copy_all(Source& source, Progress& progress) {
//     progress.begin("copying", source.size());
//     while (...) {
//       ... copy a piece ...
//       TRY(progress.advance(piece.size()));  // an error: cancelled; undo what was done and return
//     }
//   }
//
// Whoever starts the work (a command, a job of the control socket) holds the other side:
//
//   JobProgress job;
//   ... copy_all(source, job) runs on some thread ...
//   job.state();     // any thread
//   job.cancel();    // any thread, or a signal handler
#pragma once

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <string_view>

#include "src/base/result.h"

namespace vmm {

// The code() of the error of advance(), when the work was cancelled.
inline constexpr int kCancelled = ECANCELED;

// Called by the thread that does the work, after each piece of it: pieces of some MiB at most, so
// that a cancel is heard soon.
class Progress {
 public:
  virtual ~Progress() = default;
  // Work has one phase or several, one after the other; each starts at 0 of `total` bytes. 0: it is
  // not known how long it takes. `phase` is a string literal: "converting".
  virtual void begin(const char* phase, std::uint64_t total) = 0;
  [[nodiscard]] virtual Result<void> advance(std::uint64_t bytes) = 0;

  // Of work that nobody watches or cancels.
  static Progress& none();
};

class JobProgress : public Progress {
 public:
  struct State {
    std::string_view phase;  // empty: nothing has begun
    std::uint64_t done = 0, total = 0;
  };

  void begin(const char* phase, std::uint64_t total) override;
  Result<void> advance(std::uint64_t bytes) override;

  State state() const;
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool is_cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  mutable std::mutex mutex_;  // guards state_
  State state_;
  std::atomic<bool> cancelled_{false};
  static_assert(std::atomic<bool>::is_always_lock_free, "signal handlers cancel");
};

}  // namespace vmm
