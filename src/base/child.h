// Child: another program that this one started, in a session of its own and with no descriptor but
// those it was given.
//
//   auto ready = TRY(Pipe::create());
//   auto child = TRY(Child::spawn({.path = "/proc/self/exe",
//                                  .arguments = {"vmm", "--ready-fd", "3"},
//                                  .passed = {ready.write_end.get()},   // it finds it at 3
//                                  .output = log.get(), .error = log.get()}));
//   ready.write_end.reset();                                            // or its end is not seen
//   if (child.wait_ready(ready.read_end.get(), deadline) != Child::Readiness::ready) ...
//
// A Child that goes out of scope kills its process and reaps it, unless leave() said that it stays.
// (A copy of this very process that works on something: forked_task.h.)
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm {

struct Pipe {
  UniqueFd read_end, write_end;
  static Result<Pipe> create();
};

// How a process ended: a signal, or else an exit code.
struct ChildEnd {
  int code = 0;
  int signal = 0;  // 0: by itself

  bool is_success() const { return code == 0 && signal == 0; }
  std::string text() const;  // "ended with code 1", "was ended by signal 9"
};

class Child {
 public:
  using Clock = std::chrono::steady_clock;

  struct Program {
    std::string path;
    std::vector<std::string> arguments;  // what it is called first
    std::vector<int> passed;             // descriptors that it finds at 3, 4, ... in this order
    int output = -1;                     // its standard output; -1: nowhere
    int error = -1;                      // its standard error
    // Of signals that this process ignores. It blocks none, either way.
    enum class Ignored : std::uint8_t { reset, kept } ignored = Ignored::reset;
  };
  // Standard input is /dev/null. The error names the program, or the descriptor that cannot be
  // given to it; nothing runs then.
  static Result<Child> spawn(const Program& program);

  Child(Child&&) noexcept = default;
  Child& operator=(Child&& other) noexcept;
  ~Child() { end(); }

  pid_t id() const { return id_; }
  // Readable when it has ended.
  int pidfd() const { return process_.get(); }
  // Any thread, while this lives; nothing happens to a process that has ended.
  void kill() const;

  // Reaps it. Again: the same once more.
  ChildEnd wait();
  // Nothing: it still runs.
  std::optional<ChildEnd> wait_until(Clock::time_point deadline);

  enum class Readiness : std::uint8_t {
    ready,  // it wrote a byte
    ended,  // it closed the pipe without: it is ending, or is of no use
    late,   // neither in time
  };
  // `pipe`: whose other end it alone has.
  static Readiness wait_ready(int pipe, Clock::time_point deadline);

  // Kills it, unless it has ended.
  ChildEnd end();
  // It stays when this goes.
  pid_t leave();

 private:
  Child(pid_t id, UniqueFd process) : id_(id), process_(std::move(process)) {}
  friend class ForkedTask;
  // Takes over a process that was just made; kills it where it cannot be watched.
  static Result<Child> adopt(pid_t id);

  pid_t id_ = 0;
  UniqueFd process_;  // empty: moved from, or left
  std::optional<ChildEnd> ended_;
};

// This process, and those that it starts, may have as many descriptors as the host permits. The
// usual soft limit is a thousand.
void raise_descriptor_limit();

// Copies of descriptors from `lowest` on, so that each can be given the number that it is wanted at
// without overwriting another one.
Result<std::vector<UniqueFd>> copy_descriptors(const std::vector<int>& descriptors, int lowest);

}  // namespace vmm
