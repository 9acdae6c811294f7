#include "src/base/worker.h"

#include <latch>

#include "src/base/thread.h"

namespace vmm {

Result<std::unique_ptr<Worker>> Worker::start(std::string name) {
  auto loop = TRY(EventLoop::create());  // not inside of `new`: an early return would leak it
  std::unique_ptr<Worker> worker(new Worker(std::move(name), std::move(loop)));
  std::latch running(1);
  worker->thread_ = TRY(start_thread(worker->name_, [raw = worker.get(), &running] {
    raw->loop_->post([&running] { running.count_down(); });
    raw->loop_->run();
  }));
  // From here on EventLoop::call is answered by the worker's thread.
  running.wait();
  return worker;
}

Worker::Worker(std::string name, std::unique_ptr<EventLoop> loop)
    : name_(std::move(name)), loop_(std::move(loop)) {}

Worker::~Worker() {
  if (!thread_.joinable()) return;
  loop_->stop();
  thread_.join();
}

}  // namespace vmm
