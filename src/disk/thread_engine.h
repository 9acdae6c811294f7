// ThreadEngine: carries requests out by blocking calls on a few threads of its own, which are
// started when there is work for one more. For hosts without io_uring, and for the operations that
// io_uring lacks.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "src/base/event_fd.h"
#include "src/disk/disk.h"

namespace vmm::disk {

class ThreadEngine {
 public:
  static constexpr std::size_t kMaxThreads = 8;

  // Carries a request out, blocking; 0 or the errno. Called by several threads at once.
  using Perform = std::function<int(const Request&)>;

  static Result<std::unique_ptr<ThreadEngine>> create(Perform perform);
  // Carries out what is queued, then joins its threads.
  ~ThreadEngine();

  void submit(const Request& request);
  // Appends what completed since the last call.
  void reap(std::vector<Completion>& completions);
  // Readable when reap() has something.
  int fd() const { return done_event_.fd(); }

 private:
  ThreadEngine(Perform perform, EventFd done_event)
      : perform_(std::move(perform)), done_event_(std::move(done_event)) {}
  bool add_thread();
  int carry_out(const Request& request) const;
  void work();

  Perform perform_;
  EventFd done_event_;
  std::vector<std::thread> threads_;

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::deque<Request> waiting_;
  std::vector<Completion> done_;
  std::size_t idle_ = 0;
  bool stopping_ = false;
};

}  // namespace vmm::disk
