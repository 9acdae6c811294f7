// LogFile: a file that is appended to and has a limit: at it the file becomes PATH.1, over the one
// that was, and PATH begins anew.
//
//   auto file = TRY(LogFile::open("/var/log/console", 16 << 20));
//   const ssize_t n = file.append(bytes);   // as write(2), with errno
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm::chardev {

class LogFile {
 public:
  // Never waits. `limit` in bytes, 0 for none. A FIFO is opened whether somebody reads it or not;
  // it and a character device have no limit. Anything else at the path is an error.
  static Result<LogFile> open(const std::string& path, std::uint64_t limit);

  // The same one for its whole life.
  int fd() const { return file_.get(); }
  // Whole or not at all, but for a full disk. At the limit, an error of the renaming is the result.
  ssize_t append(std::span<const std::byte> bytes);

 private:
  LogFile(UniqueFd file, std::uint64_t limit) : file_(std::move(file)), limit_(limit) {}
  bool begin_anew();

  UniqueFd file_;
  std::uint64_t limit_;
  std::uint64_t size_ = 0;
  UniqueFd directory_;  // of the file, whatever becomes the working directory
  std::string name_;
};

}  // namespace vmm::chardev
