#include "src/files/packer.h"

#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "src/base/sparse_file.h"

namespace vmm::files {
namespace {

constexpr std::size_t kPieceSize = 64u << 10;
constexpr std::size_t kMaxXattrs = 64u << 10;  // bytes, as the kernel has it

bool is_kept(std::string_view name) {
  if (name.starts_with("trusted.")) return !name.starts_with("trusted.overlay.");
  return name == "security.capability" || name.starts_with("user.") ||
         name.starts_with("system.posix_acl_");
}

// A file system without them, or one that changed meanwhile, has none.
std::vector<Xattr> xattrs_of(int fd) {
  std::vector<char> names(kMaxXattrs), value(kMaxXattrs);
  const ssize_t size = ::flistxattr(fd, names.data(), names.size());
  std::vector<Xattr> found;
  for (const char* name = names.data(); size > 0 && name < names.data() + size;
       name += std::strlen(name) + 1) {
    if (!is_kept(name)) continue;
    const ssize_t n = ::fgetxattr(fd, name, value.data(), value.size());
    if (n < 0) continue;
    const auto bytes = std::as_bytes(std::span(value)).first(static_cast<std::size_t>(n));
    found.push_back({name, {bytes.begin(), bytes.end()}});
  }
  return found;
}

Result<std::string> target_of(int directory, const std::string& file) {
  std::string target(kMaxPath, '\0');
  const ssize_t n = ::readlinkat(directory, file.c_str(), target.data(), target.size());
  if (n < 0) return fail_errno("cannot read the link '{}'", file);
  target.resize(static_cast<std::size_t>(n));
  return target;
}

bool is_gone(const Error& error) { return error.code() == ENOENT || error.code() == ENOTDIR; }

}  // namespace

Result<std::optional<Entry>> examine(int root, const std::string& path, bool follow) {
  const auto file = open_in_root(root, path, O_PATH | (follow ? 0 : O_NOFOLLOW));
  if (!file && is_gone(file.error())) return std::nullopt;
  if (!file) return std::unexpected(file.error());
  struct stat status{};
  if (::fstat(file->get(), &status) < 0) return fail_errno("cannot examine '{}'", path);
  auto entry = entry_of(status);
  if (S_ISREG(status.st_mode)) entry.size = static_cast<std::uint64_t>(status.st_size);
  if (S_ISLNK(status.st_mode)) entry.target = TRY(target_of(file->get(), ""));
  return std::optional(std::move(entry));
}

Result<void> Packer::pack(int root, const PackOptions& options) {
  if (options.name.empty()) {
    const auto directory = TRY(open_in_root(root, options.path, O_RDONLY | O_DIRECTORY));
    return add_children(directory.get(), "");
  }
  // Of a link that is not followed, its directory has the name.
  const auto file =
      TRY(open_in_root(root, options.path, O_PATH | (options.follow ? 0 : O_NOFOLLOW)));
  struct stat status{};
  if (::fstat(file.get(), &status) < 0) return fail_errno("cannot examine '{}'", options.path);
  if (S_ISDIR(status.st_mode)) {
    auto entry = entry_of(status);
    entry.name = options.name;
    const auto directory = TRY(open_in_root(root, options.path, O_RDONLY | O_DIRECTORY));
    entry.xattrs = xattrs_of(directory.get());
    TRY(send(entry));
    return add_children(directory.get(), options.name);
  }
  auto entry = entry_of(status);
  entry.name = options.name;
  if (S_ISLNK(status.st_mode)) {
    entry.target = TRY(target_of(file.get(), ""));
  } else if (S_ISREG(status.st_mode)) {
    const auto open = TRY(open_in_root(root, options.path, O_RDONLY | O_NONBLOCK));
    if (::fstat(open.get(), &status) < 0 || !S_ISREG(status.st_mode)) {
      return fail("'{}' was replaced meanwhile", options.path);
    }
    entry.size = static_cast<std::uint64_t>(status.st_size);
    entry.xattrs = xattrs_of(open.get());
    TRY(send(entry));
    return send_data(open.get(), entry.size);
  } else if (S_ISSOCK(status.st_mode)) {
    return fail("'{}' is a socket", options.path);
  }
  return send(entry);
}

Result<void> Packer::add_children(int directory, const std::string& name) {
  for (const auto& file : TRY(names_in(directory))) {
    TRY(add(directory, file, name.empty() ? file : name + "/" + file));
  }
  return {};
}

Result<bool> Packer::add(int directory, const std::string& file, const std::string& name) {
  if (!TRY(add_alone(directory, file, name))) return false;
  const UniqueFd inner(
      ::openat(directory, file.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (inner) TRY(add_children(inner.get(), name));
  if (!inner && errno != ENOTDIR && errno != ELOOP && errno != ENOENT) {
    return fail_errno("cannot read the directory '{}'", name);
  }
  return true;
}

Result<bool> Packer::add_alone(int directory, const std::string& file, const std::string& name) {
  if (name.size() >= kMaxPath) return fail("a name is longer than {} bytes", kMaxPath - 1);
  struct stat status{};
  if (::fstatat(directory, file.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0) {
    if (errno == ENOENT) return false;
    return fail_errno("cannot examine '{}'", name);
  }
  if (S_ISSOCK(status.st_mode)) return false;
  auto entry = entry_of(status);
  entry.name = name;
  if (!S_ISDIR(status.st_mode) && status.st_nlink > 1) {
    const auto [first, is_new] = linked_.try_emplace({status.st_dev, status.st_ino}, name);
    if (!is_new) {
      entry.hard_link = first->second;
      TRY(send(entry));
      return true;
    }
  }
  if (S_ISREG(status.st_mode)) return add_file(directory, file, std::move(entry));
  if (S_ISLNK(status.st_mode)) entry.target = TRY(target_of(directory, file));
  if (S_ISDIR(status.st_mode)) {
    const UniqueFd inner(
        ::openat(directory, file.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (inner) entry.xattrs = xattrs_of(inner.get());
  }
  TRY(send(entry));
  return true;
}

Result<void> Packer::add_empty(const std::string& name) {
  Entry entry;
  entry.name = name;
  entry.mode = S_IFREG | 0644;
  return send(entry);
}

Result<bool> Packer::add_file(int directory, const std::string& file, Entry entry) {
  // A FIFO may have taken its place.
  const UniqueFd fd(
      ::openat(directory, file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat status{};
  if (!fd || ::fstat(fd.get(), &status) < 0) {
    if (errno == ENOENT) return false;
    return fail_errno("cannot read '{}'", entry.name);
  }
  if (!S_ISREG(status.st_mode)) return false;
  entry.size = static_cast<std::uint64_t>(status.st_size);
  entry.xattrs = xattrs_of(fd.get());
  TRY(send(entry));
  TRY(send_data(fd.get(), entry.size));
  return true;
}

Result<void> Packer::send_data(int fd, std::uint64_t size) {
  std::vector<std::byte> buffer(kPieceSize);
  for (std::uint64_t at = 0; at < size;) {
    const auto data = TRY(next_data(fd, at, size));
    for (at = data.offset; at < data.end();) {
      const auto wanted = std::min<std::uint64_t>(buffer.size(), data.end() - at);
      const ssize_t n = ::pread(fd, buffer.data(), wanted, static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail_errno("cannot read a file");
      if (n == 0) return {};  // it became shorter
      const auto bytes = std::span(buffer).first(static_cast<std::size_t>(n));
      TRY(send(Piece{at, {bytes.begin(), bytes.end()}}));
      at += static_cast<std::uint64_t>(n);
    }
    at = data.end();
  }
  return {};
}

}  // namespace vmm::files
