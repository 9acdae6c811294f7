#include "src/base/worker.h"

#include <sys/prctl.h>

#include <csignal>
#include <latch>
#include <system_error>

namespace vmm {

void set_thread_name(const std::string& name) { ::prctl(PR_SET_NAME, name.c_str()); }

Result<std::unique_ptr<Worker>> Worker::start(std::string name) {
  auto loop = TRY(EventLoop::create());  // not inside of `new`: an early return would leak it
  std::unique_ptr<Worker> worker(new Worker(std::move(name), std::move(loop)));
  std::latch running(1);
  // Signals belong to the main thread.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &old);
  try {
    worker->thread_ = std::thread([raw = worker.get(), &running] {
      set_thread_name(raw->name_);
      raw->loop_->post([&running] { running.count_down(); });
      raw->loop_->run();
    });
  } catch (const std::system_error& error) {
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
    return fail("cannot start thread '{}': {}", worker->name_, error.what());
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
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
