#include "devices/backend/chardev/log_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

namespace vmm::chardev {
namespace {

constexpr int kAppend = O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY;

}  // namespace

Result<LogFile> LogFile::open(const std::string& path, std::uint64_t limit) {
  auto opened = open_file(path, kAppend);
  // A FIFO that nobody reads yet. Opened for both directions it is one that may be read later.
  if (!opened && opened.error().code() == ENXIO) {
    opened = open_file(path, O_RDWR | O_NONBLOCK | O_NOCTTY);
  }
  LogFile log(TRY(std::move(opened)), limit);
  struct stat status{};
  if (::fstat(log.fd(), &status) < 0) return fail_errno("cannot look at '{}'", path);
  if (S_ISFIFO(status.st_mode) || S_ISCHR(status.st_mode)) {
    log.limit_ = 0;
    return log;
  }
  if (!S_ISREG(status.st_mode)) {
    return fail("'{}' is a device with blocks: expected a file, a FIFO or a terminal", path);
  }
  log.size_ = static_cast<std::uint64_t>(status.st_size);
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  if (error) return fail("cannot find '{}': {}", path, error.message());
  log.name_ = real.filename().string();
  log.directory_ = TRY(open_file(real.parent_path().string(), O_PATH | O_DIRECTORY));
  return log;
}

ssize_t LogFile::append(std::span<const std::byte> bytes) {
  if (limit_ != 0 && size_ + bytes.size() > limit_ && !begin_anew()) return -1;
  const ssize_t n = ::write(file_.get(), bytes.data(), bytes.size());
  if (n > 0) size_ += static_cast<std::uint64_t>(n);
  return n;
}

bool LogFile::begin_anew() {
  struct stat ours{}, named{};
  if (::fstat(file_.get(), &ours) < 0) return false;
  size_ = static_cast<std::uint64_t>(ours.st_size);
  if (size_ < limit_ / 2) return true;  // somebody else emptied it
  // Another machine that writes to the file, or a log rotator, may have renamed it already.
  const bool there = ::fstatat(directory_.get(), name_.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0;
  if (there && named.st_dev == ours.st_dev && named.st_ino == ours.st_ino &&
      ::renameat(directory_.get(), name_.c_str(), directory_.get(), (name_ + ".1").c_str()) < 0) {
    return false;
  }
  const UniqueFd next(
      ::openat(directory_.get(), name_.c_str(), kAppend | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!next || ::fstat(next.get(), &named) < 0) return false;
  if (!S_ISREG(named.st_mode)) {
    errno = EEXIST;
    return false;
  }
  if (::dup3(next.get(), file_.get(), O_CLOEXEC) < 0) return false;
  size_ = static_cast<std::uint64_t>(named.st_size);
  return true;
}

}  // namespace vmm::chardev
