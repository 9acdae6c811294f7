// ForkCopy: one machine of a fork, as a process that is to stay.
//
//   auto copy = TRY(ForkCopy::start("/snapshots/seeded.forks/1", words, {folder.lock()}));
//   TRY(copy.wait_ready(work));      // "a copy does not start: ...", with what it said itself
//   const pid_t process = copy.leave();
//
// What it says goes to STEM.log. Until leave() it ends with this object.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "src/base/child.h"
#include "src/base/progress.h"
#include "src/base/result.h"

namespace vmm::cli {

class ForkCopy {
 public:
  static constexpr auto kPatience = std::chrono::minutes(5);

  // `words`: of its command line, to which those for its files and its readiness are added. It
  // holds copies of `held`, from descriptor 4 on. `program`: this one, but for tests.
  static Result<ForkCopy> start(const std::string& stem, const std::vector<std::string>& words,
                                const std::vector<int>& held,
                                const std::string& program = "/proc/self/exe");

  // Until its guest runs, or the work is cancelled.
  Result<void> wait_ready(Progress& work, std::chrono::milliseconds patience = kPatience);
  pid_t leave() { return process_.leave(); }

  std::string control() const { return stem_ + ".control"; }
  std::string console() const { return stem_ + ".console"; }

 private:
  ForkCopy(std::string stem, Child process, UniqueFd ready)
      : stem_(std::move(stem)), process_(std::move(process)), ready_(std::move(ready)) {}
  // The last line of its log, or else how it ended.
  std::string last_words(const ChildEnd& end) const;

  std::string stem_;
  Child process_;
  UniqueFd ready_;  // says when it runs; ends when it failed
};

}  // namespace vmm::cli
