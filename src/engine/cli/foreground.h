// Foreground: this process's terminal, streams and signals, as those of a process in a container.
//
//   Foreground own(loop, {.input = true, .tty = true}, peer);
//   TRY(own.begin());
//   loop.run();                       // until finish(), or the keys to detach
//   return own.code();
#pragma once

#include <termios.h>

#include <functional>
#include <optional>
#include <string>

#include "src/base/unique_fd.h"
#include "src/base/watch.h"
#include "src/engine/cli/detach_keys.h"
#include "src/engine/runtime/wire.h"

namespace vmm::engine::cli {

class Foreground {
 public:
  struct Options {
    bool input = false;        // what comes on standard input goes to the process
    bool tty = false;          // the process has a terminal
    bool pass_signals = true;  // not with a terminal: its keys go as bytes
    DetachKeys keys;
  };
  struct Peer {
    std::function<void(std::string_view)> input;
    std::function<void()> input_end;
    std::function<std::size_t()> input_pending;
    std::function<void(const wire::TerminalSize&)> resize;
    std::function<void(int)> signal;
  };

  Foreground(EventLoop& loop, Options options, Peer peer);
  ~Foreground();

  // Error: "the input device is not a TTY".
  static Result<void> check_terminal(bool input, bool tty);

  Result<void> begin();
  void output(wire::Stream stream, std::string_view bytes);
  void input_taken();  // there may be room for more
  void send_size();
  void finish(int code);
  int code() const { return code_; }

 private:
  Result<void> take_signals();
  void take_terminal();
  void read_signals();
  void read_input();
  void expect_input();

  EventLoop& loop_;
  Options options_;
  Peer peer_;
  UniqueFd signals_;
  std::optional<Watch> signals_watch_, input_watch_;
  bool input_is_file_ = false, input_ended_ = false;
  std::optional<termios> saved_;
  int code_ = 0;
};

}  // namespace vmm::engine::cli
