// Chardev: the host's end of a serial line.
//
//   auto console = TRY(open_chardev(spec, loop, {.power_button = ..., .quit = ...}));
//   console->set_receiver([&](std::span<const std::byte> bytes) { return uart.receive(bytes); });
//   console->write(bytes);                      // any thread
//   console->resume_input();                    // any thread: the receiver has room again
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "devices/backend/chardev/chardev_config.h"
#include "src/base/event_loop.h"
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

  // Loop thread. Without a receiver, input waits where it is.
  void set_receiver(Receiver receiver);
  // Any thread.
  void resume_input();
  // Any thread. Waits a little for a reader that is slow and then drops the bytes, so that no
  // reader of a console can hold up a machine. No reader at all: dropped at once.
  void write(std::span<const std::byte> bytes);

 protected:
  explicit Chardev(EventLoop& loop) : loop_(loop) {}
  // Starts to read `input` (-1: there is none) and to write to `output`. Neither is owned.
  void attach(int input, int output);
  void detach();
  // Lets a terminal take out what is not for the guest. In place; returns what is left.
  virtual std::size_t filter_input(std::span<std::byte> bytes);
  // The input ended; loop thread.
  virtual void on_end_of_input() {}
  EventLoop& loop() { return loop_; }

 private:
  void read_input();
  void offer();
  void watch_input(bool on);

  EventLoop& loop_;
  Receiver receiver_;
  int input_ = -1;
  bool watching_ = false;
  std::vector<std::byte> waiting_;  // read, not taken yet
  std::mutex output_mutex_;         // guards output_
  int output_ = -1;
};

// Null for Kind::none.
Result<std::unique_ptr<Chardev>> open_chardev(const SerialSpec& spec, EventLoop& loop,
                                              TerminalActions actions);

}  // namespace vmm::chardev
