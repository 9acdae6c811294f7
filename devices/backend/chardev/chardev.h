// Chardev: the host's end of a serial line.
//
//   auto console = TRY(open_chardev(spec, loop, {.power_button = ..., .quit = ...}));
//   console->set_receiver([&](std::span<const std::byte> bytes) { return uart.receive(bytes); });
//   console->write(bytes);                      // any thread
//   console->resume_input();                    // any thread: the receiver has room again
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/backend/chardev/chardev_config.h"
#include "src/base/event_loop.h"
#include "src/base/log.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm::chardev {

// What the keys behind the escape key of a terminal do; called on the loop's thread.
struct TerminalActions {
  std::function<void()> power_button;
  std::function<void()> quit;
};

class Chardev {
 public:
  // Returns how many bytes it took; the rest is offered again after resume_input().
  using Receiver = std::function<std::size_t(std::span<const std::byte>)>;

  virtual ~Chardev() = default;

  // Any thread that the loop's does not wait for. When it returns, the earlier receiver is not
  // called any more. Without one, input waits where it is.
  void set_receiver(Receiver receiver);
  // Any thread.
  void resume_input();
  // Any thread. Waits a little for a reader that is slow and then drops the bytes, and all that
  // follow until it reads again, so that no reader of a console can hold up a machine. No reader at
  // all: dropped at once. What else makes it fail is logged, a line each time that it begins.
  void write(std::span<const std::byte> bytes);

 protected:
  explicit Chardev(EventLoop& loop) : loop_(loop) {}
  // Starts to read `input` (-1: there is none) and to write to `output`. Neither is owned. What the
  // receiver did not take yet of an earlier input comes first.
  void attach(int input, int output);
  void detach();
  // Reads what is left of an input whose writer is gone, up to a bound, so that it can be closed.
  void drain_input();
  // As write(2). One caller at a time; not to block where poll(2) says POLLOUT.
  virtual ssize_t put(int output, std::span<const std::byte> bytes);
  // What it writes to, for the log.
  virtual std::string name() const { return "the serial console"; }
  // Lets a terminal take out what is not for the guest. In place; returns what is left.
  virtual std::size_t filter_input(std::span<std::byte> bytes);
  // The input ended; loop thread.
  virtual void on_end_of_input() {}
  EventLoop& loop() { return loop_; }

 private:
  void read_input();
  void add_input(std::span<std::byte> bytes);
  void offer();
  void watch_input(bool on);
  void lost(int error);

  EventLoop& loop_;
  Receiver receiver_;
  int input_ = -1;
  bool watching_ = false;
  std::optional<std::uint64_t> reading_;  // the timer, where epoll does not watch input_
  std::vector<std::byte> waiting_;        // read, not taken yet
  log::RateLimit limit_{1};
  std::mutex output_mutex_;  // guards all below
  int output_ = -1;
  bool stalled_ = false;  // the last write waited in vain
  bool losing_ = false;   // the last write failed, and that was logged
  bool socket_ = false;   // output_ is one
};

// A descriptor like `fd`, of a pipe, FIFO or terminal that others may have too, whose writes do not
// wait; else, or where that cannot be had, none.
UniqueFd own_output(int fd);

// Null for Kind::none.
Result<std::unique_ptr<Chardev>> open_chardev(const SerialSpec& spec, EventLoop& loop,
                                              TerminalActions actions);

}  // namespace vmm::chardev
