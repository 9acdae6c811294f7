// Unix stream sockets: a listener that owns its path, and connect.
#pragma once

#include <string>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm {

// Listens at a path, 0600, non-blocking; removes the path on destruction. A socket that nobody
// listens at any more is replaced; anything else at the path is refused with a sentence.
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
  UnixListener(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  UniqueFd fd_;
  std::string path_;
};

// Blocking until connected; the descriptor is blocking.
Result<UniqueFd> connect_unix(const std::string& path);

}  // namespace vmm
