#include "src/disk/thread_engine.h"

#include <cerrno>

#include "src/base/caught.h"
#include "src/base/thread.h"

namespace vmm::disk {

Result<std::unique_ptr<ThreadEngine>> ThreadEngine::create(Perform perform) {
  auto done_event = TRY(EventFd::create());
  return std::unique_ptr<ThreadEngine>(new ThreadEngine(std::move(perform), std::move(done_event)));
}

ThreadEngine::~ThreadEngine() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void ThreadEngine::submit(const Request& request) {
  bool start = false;
  {
    std::lock_guard lock(mutex_);
    waiting_.push_back(request);
    start = waiting_.size() > idle_ && threads_.size() < kMaxThreads;
  }
  changed_.notify_one();
  if (!start || add_thread() || !threads_.empty()) return;
  // Not one thread to be had: the caller's own does it.
  std::lock_guard lock(mutex_);
  waiting_.pop_back();
  done_.push_back({request.tag, carry_out(request)});
  done_event_.signal();
}

bool ThreadEngine::add_thread() {
  auto thread = start_thread("disk-io", [this] { work(); });
  if (!thread) return false;
  threads_.push_back(std::move(*thread));
  return true;
}

// What it throws fails this request alone.
int ThreadEngine::carry_out(const Request& request) const {
  const auto error = caught([&]() -> Result<int> { return perform_(request); });
  return error.value_or(ENOMEM);
}

void ThreadEngine::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    --idle_;
    if (waiting_.empty()) return;
    const Request request = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    const int error = carry_out(request);
    lock.lock();
    done_.push_back({request.tag, error});
    if (done_.size() == 1) done_event_.signal();
  }
}

void ThreadEngine::reap(std::vector<Completion>& completions) {
  std::lock_guard lock(mutex_);
  if (done_.empty()) return;
  (void)done_event_.consume();  // set whenever done_ is not empty
  completions.insert(completions.end(), done_.begin(), done_.end());
  done_.clear();
}

}  // namespace vmm::disk
