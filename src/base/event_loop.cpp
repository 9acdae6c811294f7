#include "src/base/event_loop.h"

#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <exception>

namespace vmm {

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail_errno("cannot create an epoll instance");
  auto wakeup = TRY(EventFd::create());
  std::unique_ptr<EventLoop> loop(new EventLoop(std::move(epoll), std::move(wakeup)));
  TRY(loop->watch(loop->wakeup_.fd(), EPOLLIN,
                  [raw = loop.get()](std::uint32_t) { (void)raw->wakeup_.consume(); }));
  return loop;
}

EventLoop::EventLoop(UniqueFd epoll, EventFd wakeup)
    : epoll_(std::move(epoll)), wakeup_(std::move(wakeup)) {}

EventLoop::~EventLoop() = default;

Result<void> EventLoop::watch(int fd, std::uint32_t events, Callback callback) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) {
    return fail_errno("cannot watch descriptor {}", fd);
  }
  watches_[fd] = std::make_shared<Watch>(Watch{std::move(callback)});
  return {};
}

Result<void> EventLoop::modify(int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) < 0) {
    return fail_errno("cannot change the events of descriptor {}", fd);
  }
  return {};
}

void EventLoop::forget(int fd) {
  if (watches_.erase(fd) == 0) return;
  (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);  // fails only for a closed fd
}

void EventLoop::post(Task task) {
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  wakeup_.signal();
}

void EventLoop::call(Task task) {
  std::mutex done_mutex;
  std::condition_variable done;
  bool finished = false;
  std::exception_ptr thrown;
  {
    std::unique_lock lock(mutex_);
    if (!running_ || pthread_equal(thread_, pthread_self())) {
      lock.unlock();
      task();
      return;
    }
    tasks_.push_back([&] {
      try {
        task();
      } catch (...) {  // check: catch-all allowed, passed on to the thread that asked
        thrown = std::current_exception();
      }
      std::lock_guard done_lock(done_mutex);
      finished = true;
      done.notify_one();
    });
  }
  wakeup_.signal();
  std::unique_lock done_lock(done_mutex);
  done.wait(done_lock, [&] { return finished; });
  if (thrown) std::rethrow_exception(thrown);
}

std::uint64_t EventLoop::add_timer(Clock::time_point when, Task task) {
  timers_.push_back({next_timer_, when, std::move(task)});
  return next_timer_++;
}

void EventLoop::cancel_timer(std::uint64_t timer) {
  std::erase_if(timers_, [timer](const Timer& t) { return t.id == timer; });
}

void EventLoop::run() {
  {
    std::lock_guard lock(mutex_);
    running_ = true;
    thread_ = pthread_self();
  }
  std::vector<epoll_event> events(32);
  for (;;) {
    const int n = wait(events);
    for (int i = 0; i < n; ++i) {
      // An earlier callback of this batch may have forgotten this one.
      const auto it = watches_.find(events[static_cast<std::size_t>(i)].data.fd);
      if (it == watches_.end()) continue;
      const auto keep = it->second;
      keep->callback(events[static_cast<std::size_t>(i)].events);
    }
    dispatch_timers();
    dispatch_tasks();
    std::lock_guard lock(mutex_);
    if (stopping_ && tasks_.empty()) {
      stopping_ = false;
      running_ = false;
      return;
    }
  }
}

void EventLoop::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wakeup_.signal();
}

void EventLoop::dispatch_tasks() {
  std::vector<Task> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (auto& task : tasks) task();
}

void EventLoop::dispatch_timers() {
  if (timers_.empty()) return;
  const auto now = Clock::now();
  // A task may add or cancel timers, so look again after each one.
  for (;;) {
    const auto due = std::find_if(timers_.begin(), timers_.end(),
                                  [now](const Timer& t) { return t.when <= now; });
    if (due == timers_.end()) return;
    const Task task = std::move(due->task);
    timers_.erase(due);
    task();
  }
}

// Until an event, or the next timer, to the nanosecond: a device's timers are of microseconds.
int EventLoop::wait(std::span<epoll_event> events) const {
  const auto size = static_cast<int>(events.size());
  if (timers_.empty()) return ::epoll_wait(epoll_.get(), events.data(), size, -1);
  const auto next =
      std::min_element(timers_.begin(), timers_.end(),
                       [](const Timer& a, const Timer& b) { return a.when < b.when; });
  const auto left = std::max(Clock::duration{}, next->when - Clock::now());
  const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
  const timespec timeout{seconds.count(), (left - seconds).count()};
  const int n = ::epoll_pwait2(epoll_.get(), events.data(), size, &timeout, nullptr);
  if (n >= 0 || errno != ENOSYS) return n;  // Linux before 5.11
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return ::epoll_wait(epoll_.get(), events.data(), size,
                      static_cast<int>(std::min<std::int64_t>(milliseconds, 60'000)));
}

}  // namespace vmm
