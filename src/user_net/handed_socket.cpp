#include "src/user_net/handed_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace vmm::user_net {
namespace {

thread_local int handed = -1;

}  // namespace

HandedSocket::HandedSocket(int fd) { handed = fd; }
HandedSocket::~HandedSocket() { handed = -1; }

}  // namespace vmm::user_net

extern "C" {

[[gnu::visibility("default")]] int bind(int fd, const sockaddr* address, socklen_t size) noexcept {
  using vmm::user_net::handed;
  if (handed >= 0) return ::dup3(handed, fd, O_CLOEXEC) < 0 ? -1 : 0;
  return static_cast<int>(::syscall(SYS_bind, fd, address, size));
}

[[gnu::visibility("default")]] int listen(int fd, int backlog) noexcept {
  if (vmm::user_net::handed >= 0) return 0;  // it does
  return static_cast<int>(::syscall(SYS_listen, fd, backlog));
}

}  // extern "C"
