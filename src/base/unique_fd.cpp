#include "src/base/unique_fd.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>

namespace vmm {

Result<UniqueFd> open_file(const std::string& path, int flags, mode_t mode) {
  int fd;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return fail_errno("cannot open '{}'", path);
  return UniqueFd(fd);
}

Result<UniqueFd> open_regular_file(const std::string& path) {
  auto fd = TRY(open_file(path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
  struct stat status{};
  if (::fstat(fd.get(), &status) < 0) return fail_errno("cannot examine '{}'", path);
  if (!S_ISREG(status.st_mode)) return fail("'{}' is not a regular file", path);
  return fd;
}

Result<UniqueFd> open_unnamed_file(const std::string& directory) {
  std::error_code error;
  for (const auto& place : {directory, std::filesystem::temp_directory_path(error).string()}) {
    UniqueFd file(::open(place.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (file) return file;
  }
  return fail_errno("cannot make a file in '{}'", directory);
}

Result<void> read_exact_at(int fd, std::span<std::byte> buffer, std::uint64_t offset) {
  while (!buffer.empty()) {
    const ssize_t n = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read of {} bytes at offset {}", buffer.size(), offset);
    if (n == 0) return fail("the file ends {} bytes too early", buffer.size());
    buffer = buffer.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<void> write_all_at(int fd, std::span<const std::byte> buffer, std::uint64_t offset) {
  while (!buffer.empty()) {
    const ssize_t n = ::pwrite(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("write of {} bytes at offset {}", buffer.size(), offset);
    buffer = buffer.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Result<void> write_all(int fd, std::span<const std::byte> buffer) {
  while (!buffer.empty()) {
    const ssize_t n = ::write(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("write of {} bytes", buffer.size());
    buffer = buffer.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

Result<std::string> read_text_file(const std::string& path, std::size_t limit) {
  const auto fd = TRY(open_regular_file(path));
  std::string text;
  char chunk[4096];
  for (;;) {
    const ssize_t n = ::read(fd.get(), chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("cannot read '{}'", path);
    if (n == 0) return text;
    text.append(chunk, static_cast<std::size_t>(n));
    if (text.size() > limit) return fail("'{}' is larger than {} bytes", path, limit);
  }
}

}  // namespace vmm
