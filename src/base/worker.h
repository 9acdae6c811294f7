// Worker: a named thread that runs an EventLoop, and is stopped and joined by its destructor.
//
//   auto worker = TRY(Worker::start("blk0"));
//   worker->loop().call([&] { ... set up watches on the worker's thread ... });
//
// What a call() throws is its caller's; what a callback or a posted task throws ends the process
// (start_thread).
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "src/base/event_loop.h"
#include "src/base/result.h"

namespace vmm {

class Worker {
 public:
  static Result<std::unique_ptr<Worker>> start(std::string name);
  ~Worker();

  EventLoop& loop() { return *loop_; }
  const std::string& name() const { return name_; }

 private:
  Worker(std::string name, std::unique_ptr<EventLoop> loop);
  std::string name_;
  std::unique_ptr<EventLoop> loop_;
  std::thread thread_;
};

}  // namespace vmm
