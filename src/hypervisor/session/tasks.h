// Tasks: what would keep the loop's thread waiting, on other threads. Each tells the loop when it
// is done.
//
//   tasks.in_order([&] { return machine.pause(); }, [](Result<void> paused) { ... });   // loop
//   tasks.beside("metrics", [&] { ... return Result<void>(); }, [](Result<void>) { ... });
//
// Those in order change the machine: one after the other, on a thread named "machine" that is
// started with the first and lasts (who is started by a thread may be told when it ends:
// PR_SET_PDEATHSIG). Where no thread is to be had, these are done at once, by the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>

#include "src/base/event_loop.h"
#include "src/base/result.h"
#include "src/base/worker.h"

namespace vmm {

class Tasks {
 public:
  using Work = std::function<Result<void>()>;
  using Done = std::function<void(Result<void>)>;  // on the loop's thread; what Work threw is in it

  explicit Tasks(EventLoop& loop) : loop_(loop) {}
  ~Tasks();  // waits for the threads; nobody is told any more

  // On the loop's thread.
  void in_order(Work work, Done done);
  void beside(const std::string& name, Work work, Done done);
  // How many are not done.
  std::size_t in_order() const { return in_order_; }
  std::size_t beside() const { return threads_.size(); }

 private:
  EventLoop& loop_;
  std::unique_ptr<Worker> machine_;
  std::size_t in_order_ = 0;
  std::unordered_map<std::uint64_t, std::thread> threads_;
  std::uint64_t last_ = 0;
};

}  // namespace vmm
