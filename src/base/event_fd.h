// EventFd: a counter that wakes pollers; the kernel side of irqfd and ioeventfd too.
#pragma once

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm {

class EventFd {
 public:
  static Result<EventFd> create();

  int fd() const { return fd_.get(); }
  // Adds one. Never blocks; callable from any thread and from signal handlers.
  void signal() const;
  // Takes the whole count; false when it was zero.
  bool consume() const;

 private:
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace vmm
