// Threads: named, without signals (they belong to the main thread), and never ended by an exception
// alone.
//
//   std::thread thread = TRY(start_thread("snapshot", [&] { result = caught(write); }));
//
//   auto images = TRY(Background<Images>::start("loader", [&] { return load_images(paths); }));
//   ... something else meanwhile ...
//   use(TRY(images.get()));                       // what load_images() threw is an error here
#pragma once

#include <csignal>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "src/base/caught.h"
#include "src/base/result.h"

namespace vmm {

// The exit code of a process that could not go on (README, "Exit codes").
inline constexpr int kInternalErrorCode = 4;

// Names the calling thread (at most 15 bytes are kept, see prctl(2) PR_SET_NAME).
void set_thread_name(const std::string& name);

// Starts a thread of that name with all signals blocked, but for `kept` and those of a thread's own
// faults, which kill at once where they are blocked. What `task` throws and nobody caught ends the
// process, with a sentence and kInternalErrorCode: others may wait for ever for what the thread was
// in the middle of.
Result<std::thread> start_thread(const std::string& name, std::function<void()> task, int kept = 0);

// A Result<T> that a thread of its own computes.
template <typename T>
class Background {
 public:
  // `task` returns a Result<T>. Error: no thread is to be had.
  template <typename Task>
  static Result<Background> start(const std::string& name, Task task) {
    Background background;
    background.thread_ = TRY(
        start_thread(name, [result = background.result_.get(), task = std::move(task)]() mutable {
          result->emplace(caught(task));
        }));
    return background;
  }
  Background(Background&&) noexcept = default;
  Background& operator=(Background&&) = delete;
  ~Background() {
    if (thread_.joinable()) thread_.join();
  }

  // Waits for it. Once.
  Result<T> get() {
    thread_.join();
    return *std::move(*result_);
  }

 private:
  Background() : result_(std::make_unique<std::optional<Result<T>>>()) {}

  std::unique_ptr<std::optional<Result<T>>> result_;  // where it stays when this moves
  std::thread thread_;
};

}  // namespace vmm
