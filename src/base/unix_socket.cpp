#include "src/base/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <utility>

namespace vmm {
namespace {

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail("socket path '{}' is not right: 1 to {} bytes are", path,
                sizeof address.sun_path - 1);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<UniqueFd> stream_socket(int flags) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!fd) return fail_errno("cannot create a socket");
  return fd;
}

int bind_to(const UniqueFd& fd, const sockaddr_un& address) {
  // The mode of a socket's file is set before anybody can connect.
  const mode_t old = ::umask(0177);
  const int result = ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  ::umask(old);
  return result;
}

// Removes what a listener that died left behind. Error: somebody listens, or it is no socket.
Result<void> remove_stale(const std::string& path) {
  struct stat status;
  if (::lstat(path.c_str(), &status) < 0) return {};
  if (!S_ISSOCK(status.st_mode)) return fail("'{}' is there and is no socket", path);
  if (connect_unix(path)) return fail("socket '{}' is in use by another process", path);
  if (::unlink(path.c_str()) < 0) return fail_errno("cannot replace the stale socket '{}'", path);
  return {};
}

}  // namespace

Result<UnixListener> UnixListener::create(const std::string& path) {
  const auto address = TRY(address_of(path));
  auto fd = TRY(stream_socket(SOCK_NONBLOCK));
  if (bind_to(fd, address) < 0) {
    if (errno != EADDRINUSE) return fail_errno("cannot make the socket '{}'", path);
    TRY(remove_stale(path));
    if (bind_to(fd, address) < 0) return fail_errno("cannot make the socket '{}'", path);
  }
  UnixListener listener(std::move(fd), path);
  if (::listen(listener.fd(), 64) < 0) return fail_errno("cannot listen at '{}'", path);
  return listener;
}

UnixListener::UnixListener(UnixListener&& other) noexcept
    : fd_(std::move(other.fd_)), path_(std::exchange(other.path_, {})) {}

UnixListener::~UnixListener() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

UniqueFd UnixListener::accept() const {
  return UniqueFd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

Result<UniqueFd> connect_unix(const std::string& path) {
  const auto address = TRY(address_of(path));
  auto fd = TRY(stream_socket(0));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
    return fail_errno("cannot connect to '{}'", path);
  }
  return fd;
}

}  // namespace vmm
