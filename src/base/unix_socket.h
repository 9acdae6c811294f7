// Unix stream sockets: a listener that owns its path, and connect.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm {

// The address of a socket's path, of any length that a path may have: unix(7) takes 107 bytes, and
// a longer one is short from its directory, which is open as long as the address.
//
//   const auto address = TRY(UnixAddress::of("/home/somebody/.../control"));
//   ::connect(socket, address.get(), address.size());
class UnixAddress {
 public:
  // Error: the path is empty, its last name longer than kMaxName bytes, or there is no directory.
  static Result<UnixAddress> of(const std::string& path);
  static constexpr std::size_t kMaxName = 80;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address_); }
  static constexpr socklen_t size() { return sizeof(sockaddr_un); }

 private:
  sockaddr_un address_{};
  UniqueFd directory_;
};

// The file of a socket, so that another one of the same name is not taken for it.
class SocketFile {
 public:
  // Error: there is none of that name, or it is something else.
  static Result<SocketFile> at(std::string path);
  // The same file, which has another name now.
  SocketFile renamed(std::string path) const;
  // Whether its name is its own yet.
  bool is_there() const;
  // Removes it, unless its name is another one's by now.
  void remove() const;

 private:
  SocketFile(std::string path, dev_t device, ino_t inode)
      : path_(std::move(path)), device_(device), inode_(inode) {}
  std::string path_;
  dev_t device_;
  ino_t inode_;
};

// Listens at a path, 0600, non-blocking; removes the path on destruction, if it still is its own. A
// socket that nobody listens at any more is replaced; anything else at the path is refused with a
// sentence. Of any number of processes that replace one at once, one succeeds: a socket listens
// before it has its name.
class UnixListener {
 public:
  static Result<UnixListener> create(const std::string& path);
  UnixListener(UnixListener&& other) noexcept;
  UnixListener& operator=(UnixListener&&) = delete;
  ~UnixListener();

  int fd() const { return fd_.get(); }
  // A connection (close-on-exec, non-blocking), or an empty descriptor when none waits.
  UniqueFd accept() const;

 private:
  UnixListener(UniqueFd fd, SocketFile file) : fd_(std::move(fd)), file_(std::move(file)) {}
  static Result<void> publish(const std::string& from, const std::string& path);
  static Result<void> remove_stale(const std::string& path);

  UniqueFd fd_;
  std::optional<SocketFile> file_;  // none: moved from
};

// Blocking until connected; the descriptor is blocking.
Result<UniqueFd> connect_unix(const std::string& path);

}  // namespace vmm
