#include "src/base/unix_socket.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace vmm {
namespace {

Result<UniqueFd> stream_socket(int flags) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!fd) return fail_errno("cannot create a socket");
  return fd;
}

// A name beside `path` that nobody else makes.
std::string working_name(const std::string& path) {
  std::uint32_t random = 0;  // of another process in another namespace, too
  (void)!::getrandom(&random, sizeof random, 0);
  const auto slash = path.rfind('/');
  return fmt::format("{}.{:x}.{:08x}", path.substr(0, slash == std::string::npos ? 0 : slash + 1),
                     ::getpid(), random);
}

enum class State { listens, stale, gone };

// What is at the other end of a socket's path; without waiting for it.
State state_of(const std::string& path) {
  const auto address = UnixAddress::of(path);
  const auto fd = stream_socket(SOCK_NONBLOCK);
  if (!address || !fd) return State::listens;
  if (::connect(fd->get(), address->get(), address->size()) == 0) return State::listens;
  // All else is a socket that is busy, of another kind, or of another user: not ours to remove.
  return errno == ECONNREFUSED ? State::stale : errno == ENOENT ? State::gone : State::listens;
}

// rename(2) that replaces nothing.
int rename_new(const std::string& from, const std::string& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL) return -1;  // a file system without that
  if (::link(from.c_str(), to.c_str()) < 0) return -1;
  return ::unlink(from.c_str());
}

constexpr int kTries = 100;  // each is another process's success

// Only who holds it removes a stale socket: it is not another one by then. The lock's file goes
// with it, so that the one that was locked need not be the one of that name any more.
class PathLock {
 public:
  explicit PathLock(std::string name, UniqueFd fd) : name_(std::move(name)), fd_(std::move(fd)) {}
  PathLock(PathLock&&) = default;
  ~PathLock() {
    if (fd_) ::unlink(name_.c_str());
  }

 private:
  std::string name_;
  UniqueFd fd_;
};

Result<PathLock> lock_path(const std::string& path) {
  const std::string name = path + ".vmm-lock";
  for (int i = 0; i < kTries; ++i) {
    auto fd = TRY(open_file(name, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK));
    struct stat ours{}, named{};
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) < 0) break;
    if (::fstat(fd.get(), &ours) == 0 && ::lstat(name.c_str(), &named) == 0 &&
        ours.st_dev == named.st_dev && ours.st_ino == named.st_ino) {
      return PathLock(name, std::move(fd));
    }
  }
  return fail("the socket '{}' is being made by another process", path);
}

}  // namespace

Result<UnixAddress> UnixAddress::of(const std::string& path) {
  UnixAddress result;
  auto text = path;
  if (path.size() >= sizeof result.address_.sun_path) {
    const auto name = path.rfind('/') + 1;  // npos + 1: all of it
    if (path.size() - name > kMaxName) {
      return fail("invalid socket path '{}': its last name has {} bytes, expected at most {}", path,
                  path.size() - name, kMaxName);
    }
    result.directory_ = TRY(open_file(path.substr(0, name), O_PATH | O_DIRECTORY));
    text = fmt::format("/proc/self/fd/{}/{}", result.directory_.get(), path.substr(name));
  }
  if (text.empty()) return fail("invalid socket path '': expected a path");
  result.address_.sun_family = AF_UNIX;
  std::memcpy(result.address_.sun_path, text.data(), text.size());
  return result;
}

Result<SocketFile> SocketFile::at(std::string path) {
  struct stat status;
  if (::lstat(path.c_str(), &status) < 0) return fail_errno("cannot look at '{}'", path);
  if (!S_ISSOCK(status.st_mode)) return fail("'{}' exists and is not a socket", path);
  return SocketFile(std::move(path), status.st_dev, status.st_ino);
}

SocketFile SocketFile::renamed(std::string path) const {
  return {std::move(path), device_, inode_};
}

bool SocketFile::is_there() const {
  const auto named = at(path_);
  return named && named->device_ == device_ && named->inode_ == inode_;
}

void SocketFile::remove() const {
  if (is_there()) ::unlink(path_.c_str());
}

// Removes a socket that nobody listens at, if there is one.
Result<void> UnixListener::remove_stale(const std::string& path) {
  const auto lock = TRY(lock_path(path));
  const auto stale = SocketFile::at(path);
  if (!stale) {
    if (stale.error().code() == ENOENT) return {};
    return std::unexpected(stale.error());
  }
  const auto state = state_of(path);
  if (state == State::gone) return {};
  if (state == State::listens) return fail("socket '{}' is in use by another process", path);
  if (::unlink(path.c_str()) < 0 && errno != ENOENT) {
    return fail_errno("cannot replace the stale socket '{}'", path);
  }
  return {};
}

Result<void> UnixListener::publish(const std::string& from, const std::string& path) {
  for (int i = 0; i < kTries; ++i) {
    if (rename_new(from, path) == 0) return {};
    if (errno != EEXIST) return fail_errno("cannot make the socket '{}'", path);
    TRY(remove_stale(path));
  }
  return fail("socket '{}' is in use by other processes", path);
}

Result<UnixListener> UnixListener::create(const std::string& path) {
  (void)TRY(UnixAddress::of(path));  // who connects needs it as well
  const std::string name = working_name(path);
  const auto address = TRY(UnixAddress::of(name));
  auto fd = TRY(stream_socket(SOCK_NONBLOCK));
  // Its file takes the mode of the socket, less the umask, which is the process's and not ours to
  // change (unix(7); Linux). Nobody can connect before.
  if (::fchmod(fd.get(), 0600) < 0) return fail_errno("cannot make the socket '{}'", path);
  if (::bind(fd.get(), address.get(), address.size()) < 0) {
    return fail_errno("cannot make the socket '{}'", path);
  }
  const auto file = SocketFile::at(name);
  auto published = ::listen(fd.get(), 64) < 0
                       ? Result<void>(fail_errno("cannot listen at '{}'", path))
                       : publish(name, path);
  if (!file || !published) {
    ::unlink(name.c_str());
    return std::unexpected(!file ? file.error() : published.error());
  }
  return UnixListener(std::move(fd), file->renamed(path));
}

UnixListener::UnixListener(UnixListener&& other) noexcept
    : fd_(std::move(other.fd_)), file_(std::exchange(other.file_, std::nullopt)) {}

UnixListener::~UnixListener() {
  // It listens to the end: no other process takes it for stale meanwhile. But a person may have
  // removed it, and another one's may be there.
  if (file_) file_->remove();
}

UniqueFd UnixListener::accept() const {
  return UniqueFd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

Result<UniqueFd> connect_unix(const std::string& path) {
  const auto address = TRY(UnixAddress::of(path));
  auto fd = TRY(stream_socket(0));
  if (::connect(fd.get(), address.get(), address.size()) < 0) {
    return fail_errno("cannot connect to '{}'", path);
  }
  return fd;
}

}  // namespace vmm
