#include "src/user_net/accept_pause.h"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "src/base/acceptor.h"

namespace vmm::user_net {

AcceptPause& AcceptPause::own() {
  thread_local AcceptPause pause;
  return pause;
}

std::int64_t AcceptPause::turn(std::int64_t now_ms) {
  if (listeners_.empty()) return -1;
  if (end_ms_ < 0) end_ms_ = now_ms + kMs;
  if (now_ms < end_ms_) return end_ms_ - now_ms;
  listeners_.clear();
  end_ms_ = -1;
  return -1;
}

bool AcceptPause::covers(int listener) const {
  return std::ranges::find(listeners_, listener) != listeners_.end();
}

}  // namespace vmm::user_net

extern "C" {

[[gnu::visibility("default")]] int accept4(int fd, sockaddr* address, socklen_t* size, int flags) {
  const auto accepted = static_cast<int>(::syscall(SYS_accept4, fd, address, size, flags));
  if (accepted < 0 && vmm::is_left_waiting(errno)) vmm::user_net::AcceptPause::own().note(fd);
  return accepted;
}

[[gnu::visibility("default")]] int accept(int fd, sockaddr* address, socklen_t* size) {
  return accept4(fd, address, size, 0);
}

}  // extern "C"
