#include "src/base/event_fd.h"

#include <sys/eventfd.h>

#include <cstdint>

namespace vmm {

Result<EventFd> EventFd::create() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return fail_errno("cannot create an eventfd");
  return EventFd(std::move(fd));
}

void EventFd::signal() const {
  const std::uint64_t one = 1;
  // EAGAIN means that the counter is full, so whoever polls is woken anyway.
  (void)!::write(fd_.get(), &one, sizeof one);
}

bool EventFd::consume() const {
  std::uint64_t count = 0;
  return ::read(fd_.get(), &count, sizeof count) == sizeof count;
}

}  // namespace vmm
