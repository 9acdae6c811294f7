#include "src/base/new_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <random>
#include <utility>

namespace vmm {
namespace {

std::unexpected<Error> fail_exists(const std::string& path) {
  return fail("'{}' exists already; choose another name", path);
}

// Of its first byte; a disk image is locked elsewhere (raw_file.cpp). Not flock(), which on NFS is
// a lock of all bytes. A file system without locks is no reason to refuse.
bool lock(int fd) {
  struct flock range{};
  range.l_type = F_WRLCK;
  range.l_whence = SEEK_SET;
  range.l_len = 1;
  return ::fcntl(fd, F_OFD_SETLK, &range) == 0 || (errno != EAGAIN && errno != EACCES);
}

// Opens `partial` with `flags` besides, and locks it. Not when another process made it again, and
// was done, meanwhile: then this is not the file of that name any more.
Result<UniqueFd> open_locked(const std::string& partial, int flags, mode_t mode) {
  auto fd = TRY(open_file(partial, O_RDWR | O_NOFOLLOW | O_NONBLOCK | flags, mode));
  struct stat ours{}, named{};
  if (::fstat(fd.get(), &ours) < 0) return fail_errno("cannot examine '{}'", partial);
  if (!S_ISREG(ours.st_mode)) return fail("'{}' is not a regular file", partial);
  if (ours.st_uid != ::geteuid()) return fail("'{}' belongs to another user", partial);
  if (!lock(fd.get()) || ::lstat(partial.c_str(), &named) < 0 || ours.st_dev != named.st_dev ||
      ours.st_ino != named.st_ino) {
    return std::unexpected(
        Error(fmt::format("'{}' is being made by another process", partial), EWOULDBLOCK));
  }
  return fd;
}

std::string folder_of(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

// That nobody can know before.
std::string name_beside(const std::string& path) {
  std::random_device random;
  return fmt::format("{}/.vmm-output.{:08x}{:08x}", folder_of(path), random(), random());
}

}  // namespace

Result<UniqueFd> lock_unfinished_file(const std::string& partial) {
  return open_locked(partial, 0, 0);
}

Result<void> sync_directory(const std::string& path) {
  const auto fd = TRY(open_file(path, O_RDONLY | O_DIRECTORY));
  if (::fsync(fd.get()) < 0) return fail_errno("cannot sync '{}'", path);
  return {};
}

Result<void> create_directories(const std::string& path, mode_t mode) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::is_directory(path, error)) return {};
  auto whole = fs::absolute(path, error);
  if (!whole.has_filename()) whole = whole.parent_path();  // "a/b/"
  fs::path made, parent;
  for (const auto& part : whole) {
    parent = std::exchange(made, made / part);
    if (fs::is_directory(made, error)) continue;
    if (::mkdir(made.c_str(), made == whole ? mode : 0777) == 0) {
      TRY(sync_directory(parent));
      continue;
    }
    const int why = errno;                        // before the look changes it
    if (fs::is_directory(made, error)) continue;  // another process has made it
    if (why == EEXIST) return fail("'{}' is not a directory", made.string());
    errno = why;
    return fail_errno("cannot create '{}'", path);
  }
  return {};
}

Result<NewFile> NewFile::create(const std::string& path, mode_t mode) {
  if (path.empty() || path.ends_with('/')) return fail("'{}' does not name a file", path);
  struct stat status{};
  if (::lstat(path.c_str(), &status) == 0) return fail_exists(path);
  const std::string partial = path + ".partial";
  // The lock goes with the process: what a killed one left behind is nobody's. It goes, rather than
  // being written over: it has the mode that one wanted, and who has it open reads on.
  if (::lstat(partial.c_str(), &status) == 0) {
    const auto left = TRY(lock_unfinished_file(partial));
    if (::unlink(partial.c_str()) < 0) return fail_errno("cannot remove '{}'", partial);
  }
  auto fd = open_locked(partial, O_CREAT | O_EXCL, mode);
  if (fd) return NewFile(path, partial, std::move(*fd), IfThere::is_an_error);
  const Error& error = fd.error();
  if (error.code() == 0) return std::unexpected(error);
  return fail_errno_text(error.code(), fmt::format("cannot create '{}'", path));
}

Result<NewFile> NewFile::replacing(const std::string& path) {
  if (path.empty() || path.ends_with('/')) return fail("'{}' does not name a file", path);
  constexpr mode_t kMode = 0600;
  const auto folder = folder_of(path);
  UniqueFd fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kMode));
  std::string partial;
  // A file system without that, or a kernel: it takes the folder for the file.
  if (!fd && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
    partial = name_beside(path);
    fd = UniqueFd(::open(partial.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, kMode));
  }
  if (!fd) return fail_errno("cannot create '{}'", path);
  return NewFile(path, std::move(partial), std::move(fd), IfThere::is_replaced);
}

NewFile::NewFile(NewFile&& other) noexcept
    : path_(std::exchange(other.path_, {})),
      partial_(std::exchange(other.partial_, {})),
      fd_(std::move(other.fd_)),
      if_there_(other.if_there_) {}

NewFile::~NewFile() {
  if (!partial_.empty()) (void)::unlink(partial_.c_str());  // what stays is not of that name
}

Result<void> NewFile::take_name() {
  if (::renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) < 0) {
    if (errno == EEXIST) return fail_exists(path_);
    // A file system without that; a link does not replace either.
    if (errno != EINVAL || ::link(partial_.c_str(), path_.c_str()) < 0) {
      if (errno == EEXIST) return fail_exists(path_);
      return fail_errno("cannot create '{}'", path_);
    }
    (void)::unlink(partial_.c_str());  // a second name is no harm
  }
  return {};
}

// No link replaces a file: one that has no name yet gets one for the rename.
Result<void> NewFile::replace() {
  if (partial_.empty()) {
    const auto own = fmt::format("/proc/self/fd/{}", fd_.get());
    auto name = name_beside(path_);
    if (::linkat(AT_FDCWD, own.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) < 0) {
      return fail_errno("cannot create '{}'", path_);
    }
    partial_ = std::move(name);
  }
  if (::rename(partial_.c_str(), path_.c_str()) < 0) return fail_errno("cannot create '{}'", path_);
  return {};
}

Result<void> NewFile::publish() {
  if (::fsync(fd_.get()) < 0) return fail_errno("cannot sync '{}'", path_);
  TRY(if_there_ == IfThere::is_replaced ? replace() : take_name());
  partial_.clear();
  std::error_code error;
  const auto whole = std::filesystem::absolute(std::exchange(path_, {}), error);
  return sync_directory(whole.parent_path().string());
}

}  // namespace vmm
