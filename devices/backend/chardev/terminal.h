// Terminal: standard input and output as a console, in raw mode, with an escape key.
//
// The terminal's mode is put back when the object ends, when the process exits, and when a signal
// kills it, but for SIGKILL. A thread that is to have no signals leaves those of its own faults
// (start_thread, src/base/thread.h): blocked, they kill without a handler.
#pragma once

#include "devices/backend/chardev/chardev.h"

namespace vmm::chardev {

inline constexpr char kEscapeKey = 0x01;  // Ctrl-A

class Terminal : public Chardev {
 public:
  Terminal(EventLoop& loop, TerminalActions actions);
  ~Terminal() override;

 protected:
  std::size_t filter_input(std::span<std::byte> bytes) override;

 private:
  // Returns whether the byte is for the guest.
  bool on_key(char key);
  const TerminalActions actions_;
  UniqueFd output_;  // none: standard output is written to as it is
  bool raw_ = false;
  bool escaped_ = false;
};

}  // namespace vmm::chardev
