// EventLoop: epoll behind callbacks. One thread runs it; post() and stop() may come from any.
//
//   EventLoop loop = TRY(EventLoop::create());
//   TRY(loop.watch(fd, EPOLLIN, [&](std::uint32_t events) { ... }));
//   loop.run();   // until stop()
//
// watch, modify and forget may be called from the loop's own thread, or before run().
// A callback may forget any descriptor, its own too, and the loop may be told to stop from one.
#pragma once

#include <sys/epoll.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "src/base/event_fd.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm {

class EventLoop {
 public:
  using Callback = std::function<void(std::uint32_t events)>;
  using Task = std::function<void()>;
  using Clock = std::chrono::steady_clock;

  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();

  // `events` are EPOLL* bits. The caller keeps `fd` open until forget().
  Result<void> watch(int fd, std::uint32_t events, Callback callback);
  Result<void> modify(int fd, std::uint32_t events);
  void forget(int fd);

  // Runs `task` on the loop's thread, after what is pending now.
  void post(Task task);
  // Runs `task` on the loop's thread and waits for its end. Runs it at once when called from the
  // loop's own thread or while no thread runs the loop. Throws what `task` throws.
  void call(Task task);
  // Runs `task` once, not before `when`; returns a number for cancel_timer (loop thread only).
  std::uint64_t add_timer(Clock::time_point when, Task task);
  void cancel_timer(std::uint64_t timer);

  // Runs until stop(). Tasks posted before stop() still run.
  void run();
  void stop();

 private:
  struct Watch {
    Callback callback;
  };
  struct Timer {
    std::uint64_t id;
    Clock::time_point when;
    Task task;
  };

  EventLoop(UniqueFd epoll, EventFd wakeup);
  void dispatch_tasks();
  void dispatch_timers();
  int wait(std::span<epoll_event> events) const;

  UniqueFd epoll_;
  EventFd wakeup_;
  // Keyed by fd. shared_ptr so that a callback that forgets itself outlives its own call.
  std::unordered_map<int, std::shared_ptr<Watch>> watches_;
  std::vector<Timer> timers_;
  std::uint64_t next_timer_ = 1;

  std::mutex mutex_;  // guards tasks_, stopping_, running_
  std::vector<Task> tasks_;
  bool stopping_ = false;
  bool running_ = false;
  pthread_t thread_{};
};

}  // namespace vmm
