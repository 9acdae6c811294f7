// Watch: what an owner of a descriptor wants to hear of it; nothing any more once it is gone.
//
//   Watch watch(loop, fd.get(), [this](std::uint32_t) { turn(); });
//   watch.want(EPOLLIN);
//
// Wanting nothing takes the descriptor out of the loop: epoll tells of a hang-up whatever is
// wanted.
#pragma once

#include <cstdint>
#include <utility>

#include "src/base/event_loop.h"

namespace vmm {

class Watch {
 public:
  Watch(EventLoop& loop, int descriptor, EventLoop::Callback callback)
      : loop_(loop), descriptor_(descriptor), callback_(std::move(callback)) {}
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch() { want(0); }

  // EPOLL* bits. Fails only for want of memory: then the descriptor stays silent.
  void want(std::uint32_t events) {
    if (events == wanted_) return;
    if (events == 0) {
      loop_.forget(descriptor_);
    } else if (wanted_ == 0) {
      if (!loop_.watch(descriptor_, events, callback_)) return;
    } else if (!loop_.modify(descriptor_, events)) {
      return;
    }
    wanted_ = events;
  }

 private:
  EventLoop& loop_;
  const int descriptor_;
  const EventLoop::Callback callback_;
  std::uint32_t wanted_ = 0;
};

}  // namespace vmm
