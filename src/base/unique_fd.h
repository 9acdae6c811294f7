// UniqueFd: the only owner of a file descriptor; closes it on destruction.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "src/base/result.h"

namespace vmm {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset() {
    if (fd_ >= 0) {
      ::close(fd_);
      fd_ = -1;
    }
  }

 private:
  int fd_ = -1;
};

// open(2) with O_CLOEXEC added. The error names the path.
Result<UniqueFd> open_file(const std::string& path, int flags, mode_t mode = 0600);
// For reading, and a regular file: a FIFO would be waited for, a terminal too. The error says so.
Result<UniqueFd> open_regular_file(const std::string& path);
// A file without a name, which goes with its last descriptor: in `directory`, or where temporary
// files go.
Result<UniqueFd> open_unnamed_file(const std::string& directory);

// Whole-buffer transfers; retry on EINTR and short counts. Reading past the end is an error.
Result<void> read_exact_at(int fd, std::span<std::byte> buffer, std::uint64_t offset);
Result<void> write_all_at(int fd, std::span<const std::byte> buffer, std::uint64_t offset);
Result<void> write_all(int fd, std::span<const std::byte> buffer);

// All of a (small) regular file: configuration, /proc and /sys entries. `limit` in bytes.
Result<std::string> read_text_file(const std::string& path, std::size_t limit = 16u << 20);

}  // namespace vmm
