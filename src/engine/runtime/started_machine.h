// StartedMachine: a machine that this process has started, waits for, and ends: for commands and
// templates, which do one thing after the other (a supervisor does it by events).
//
//   auto machine = TRY(StartedMachine::start(program, words, directory, lock.fd()));
//   TRY(machine.wait_for_agent(kBootPatience));
//   ... ask_agent(directory, ...) ...
//   TRY(machine.wait(kPatience));   // for the end that was asked for; the destructor kills it
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "src/engine/runtime/monitor.h"

namespace vmm::engine {

class StartedMachine {
 public:
  // As Monitor::start.
  static Result<StartedMachine> start(const std::string& program,
                                      const std::vector<std::string>& words,
                                      const std::string& directory, int lock);
  StartedMachine(StartedMachine&&) noexcept = default;
  StartedMachine& operator=(StartedMachine&&) = delete;
  ~StartedMachine();

  // Error: it ends, in its own words, or says nothing in `patience`.
  Result<void> wait_for_agent(std::chrono::seconds patience);
  // Error: it does not end in that time, or ended by an error, in its own words.
  Result<void> wait(std::chrono::seconds patience);

 private:
  StartedMachine(Monitor monitor, std::string directory)
      : monitor_(std::move(monitor)), directory_(std::move(directory)) {}
  bool has_ended(std::chrono::milliseconds time) const;
  std::string said() const;
  int reap();  // its status, of waitpid(2)

  Monitor monitor_;
  std::string directory_;
};

}  // namespace vmm::engine
