#include "src/files/unpacker.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace vmm::files {
namespace {

std::array<timespec, 2> times_of(const Entry& entry) {
  const timespec time{static_cast<time_t>(entry.mtime),
                      static_cast<long>(entry.mtime_ns % 1'000'000'000)};
  return {time, time};
}

bool is_below(const std::vector<std::string>& parts, const std::vector<std::string>& directory) {
  return parts.size() > directory.size() &&
         std::equal(directory.begin(), directory.end(), parts.begin());
}

// A device or a socket is the host's own, and programs find it by its name. A copy over an earlier
// one has its FIFOs again.
bool is_replaceable(const struct stat& status, const Entry& entry) {
  return S_ISREG(status.st_mode) || S_ISLNK(status.st_mode) ||
         (S_ISFIFO(status.st_mode) && S_ISFIFO(entry.mode));
}

std::pair<dev_t, ino_t> key_of(const struct stat& status) { return {status.st_dev, status.st_ino}; }

Result<struct stat> status_of(int fd, const std::string& name) {
  struct stat status{};
  if (::fstat(fd, &status) < 0) return fail_errno("cannot examine '{}'", name);
  return status;
}

}  // namespace

Result<Unpacker> Unpacker::open(int root, UnpackOptions options) {
  Unpacker unpacker(root, std::move(options));
  TRY(unpacker.open_directory({}, 0));
  return unpacker;
}

Result<UniqueFd> Unpacker::open_directory(const Parts& parts, std::size_t count) const {
  const auto path = join(parts, count);
  if (options_.within == Within::root) {
    return open_in_root(root_, options_.path + "/" + path, O_RDONLY | O_DIRECTORY);
  }
  return open_within(root_, path.empty() ? "." : path, O_RDONLY | O_DIRECTORY,
                     RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

Result<void> Unpacker::take(const protocol::agent::Message& message) {
  if (ended_) return fail("the stream of files goes on after its end");
  if (message.type == Entry::kType) {
    return take_entry(TRY(protocol::agent::decode<Entry>(message)));
  }
  if (message.type == Piece::kType) {
    return take_piece(TRY(protocol::agent::decode<Piece>(message)));
  }
  if (message.type != End::kType) return fail("unknown message {} of files", message.type);
  TRY(close_file());
  TRY(close_directories({}));
  ended_ = true;
  return {};
}

Result<void> Unpacker::finish() {
  if (!ended_) return fail("the stream of files broke off");
  return {};
}

Result<void> Unpacker::take_entry(const Entry& entry) {
  TRY(close_file());
  const auto parts = TRY(parts_of_name(entry.name));
  if (parts.empty()) return {};  // the directory itself, which is there
  TRY(check_is_asked_for(parts, entry.name));
  TRY(close_directories(parts));
  TRY(find_parent(parts));
  const auto& name = parts.back();
  if (!entry.hard_link.empty()) return make_link(name, entry);
  if (S_ISDIR(entry.mode)) return make_directory(parts, entry);
  TRY(make_room(name, entry));
  if (!S_ISREG(entry.mode)) return make_other(name, entry);
  file_ = UniqueFd(::openat(parent_.get(), name.c_str(),
                            O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file_) return fail_errno("cannot create '{}'", entry.name);
  made_.insert(key_of(TRY(status_of(file_.get(), entry.name))));
  entry_ = entry;
  next_ = 0;
  return {};
}

Result<void> Unpacker::check_is_asked_for(const Parts& parts, const std::string& name) const {
  if (options_.only.empty() || parts[0] == options_.only) return {};
  return fail("the stream has '{}', which was not asked for", name);
}

Result<void> Unpacker::take_piece(const Piece& piece) {
  if (!file_) return fail("data without a file");
  if (piece.offset < next_ || piece.offset > entry_.size ||
      piece.bytes.size() > entry_.size - piece.offset) {
    return fail("'{}' has data outside of its size", entry_.name);
  }
  TRY(write_all_at(file_.get(), piece.bytes, piece.offset));
  next_ = piece.offset + piece.bytes.size();
  return {};
}

// The directory of the last part, made if it is missing.
Result<void> Unpacker::find_parent(const Parts& parts) {
  const std::size_t count = parts.size() - 1;
  Parts wanted(parts.begin(), parts.end() - 1);
  if (parent_parts_ == wanted) return {};
  parent_parts_.reset();
  auto found = open_directory(parts, count);
  if (!found && found.error().code() == ENOENT) {
    auto at = TRY(open_directory(parts, 0));
    for (std::size_t i = 1; i <= count; ++i) {
      if (::mkdirat(at.get(), parts[i - 1].c_str(), 0755) < 0 && errno != EEXIST) {
        return fail_errno("cannot create the directory '{}'", join(parts, i));
      }
      at = TRY(open_directory(parts, i));
    }
    found = std::move(at);
  }
  if (!found && (found.error().code() == ELOOP || found.error().code() == EXDEV)) {
    return fail("'{}' leads through a symbolic link", join(parts, parts.size()));
  }
  if (!found) return std::unexpected(found.error());
  parent_ = std::move(*found);
  parent_parts_ = std::move(wanted);
  return {};
}

Result<void> Unpacker::make_room(const std::string& name, const Entry& entry) {
  struct stat status{};
  if (::fstatat(parent_.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0) return {};
  if (S_ISDIR(status.st_mode)) {
    return fail("cannot overwrite directory \"{0}\" with non-directory \"{0}\"", entry.name);
  }
  if (options_.within == Within::directory && !is_replaceable(status, entry)) {
    return fail("invalid output path: \"{}\" must be a directory or a regular file", entry.name);
  }
  if (::unlinkat(parent_.get(), name.c_str(), 0) < 0 && errno != ENOENT) {
    return fail_errno("cannot replace '{}'", entry.name);
  }
  if (status.st_nlink <= 1) made_.erase(key_of(status));  // its number becomes another's
  return {};
}

Result<void> Unpacker::make_directory(const Parts& parts, const Entry& entry) {
  if (::mkdirat(parent_.get(), parts.back().c_str(), 0700) < 0) {
    if (errno != EEXIST) return fail_errno("cannot create the directory '{}'", entry.name);
    struct stat status{};
    const auto found = open_directory(parts, parts.size());
    if (!found || ::fstat(found->get(), &status) < 0) {
      return fail("cannot overwrite non-directory \"{0}\" with directory \"{0}\"", entry.name);
    }
  }
  directories_.push_back({parts, entry});
  return {};
}

Result<void> Unpacker::make_link(const std::string& name, const Entry& entry) {
  const auto target = TRY(parts_of_name(entry.hard_link));
  if (target.empty()) return fail("the hard link '{}' has no target", entry.name);
  TRY(check_is_asked_for(target, entry.hard_link));
  const auto file = TRY(open_made(target, entry));
  struct stat here{};
  if (::fstatat(parent_.get(), name.c_str(), &here, AT_SYMLINK_NOFOLLOW) == 0 &&
      key_of(here) == key_of(TRY(status_of(file.get(), entry.name)))) {
    return {};  // it is that file already
  }
  TRY(make_room(name, entry));
  // The very file that was checked, whatever has its name by now.
  const auto path = fmt::format("/proc/self/fd/{}", file.get());
  if (::linkat(AT_FDCWD, path.c_str(), parent_.get(), name.c_str(), AT_SYMLINK_FOLLOW) < 0) {
    return fail_errno("cannot link '{}' to '{}'", entry.name, entry.hard_link);
  }
  return {};
}

// A file that the stream brought: another below a person's directory may be a secret. Within a root
// all files are the container's.
Result<UniqueFd> Unpacker::open_made(const Parts& target, const Entry& entry) const {
  const auto directory = TRY(open_directory(target, target.size() - 1));
  UniqueFd file(::openat(directory.get(), target.back().c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!file) return fail_errno("cannot link '{}' to '{}'", entry.name, entry.hard_link);
  if (options_.within == Within::directory &&
      !made_.contains(key_of(TRY(status_of(file.get(), entry.hard_link))))) {
    return fail("the hard link '{}' leads to '{}', which the stream did not bring", entry.name,
                entry.hard_link);
  }
  return file;
}

Result<void> Unpacker::make_other(const std::string& name, const Entry& entry) {
  if (S_ISLNK(entry.mode)) {
    if (::symlinkat(entry.target.c_str(), parent_.get(), name.c_str()) < 0) {
      return fail_errno("cannot create the link '{}'", entry.name);
    }
  } else {
    const bool is_device = S_ISCHR(entry.mode) || S_ISBLK(entry.mode);
    if ((is_device && options_.within == Within::directory) ||
        (!is_device && !S_ISFIFO(entry.mode))) {
      return fail("'{}' is a device or of another kind that cannot be copied", entry.name);
    }
    // A chmod by name could follow a link that took its place.
    if (::mknodat(parent_.get(), name.c_str(), (entry.mode & S_IFMT) | mode_of(entry),
                  ::makedev(entry.major, entry.minor)) < 0) {
      return fail_errno("cannot create '{}'", entry.name);
    }
  }
  struct stat status{};
  if (::fstatat(parent_.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
      ((status.st_mode ^ entry.mode) & S_IFMT) == 0) {
    made_.insert(key_of(status));
  }
  const bool kept = options_.owner == Owner::kept;
  if (options_.owner != Owner::own && ::fchownat(parent_.get(), name.c_str(), kept ? entry.uid : 0,
                                                 kept ? entry.gid : 0, AT_SYMLINK_NOFOLLOW) < 0) {
    return fail_errno("cannot set the owner of '{}'", entry.name);
  }
  const auto times = times_of(entry);
  (void)::utimensat(parent_.get(), name.c_str(), times.data(), AT_SYMLINK_NOFOLLOW);  // or not
  return {};
}

Result<void> Unpacker::close_file() {
  if (!file_) return {};
  const UniqueFd file = std::move(file_);
  if (::ftruncate(file.get(), static_cast<off_t>(entry_.size)) < 0) {
    return fail_errno("cannot write '{}'", entry_.name);
  }
  return set_attributes(file.get(), entry_);
}

// What is written into a directory changes its time, and its mode may forbid it.
Result<void> Unpacker::close_directories(const Parts& next) {
  while (!directories_.empty() && !is_below(next, directories_.back().parts)) {
    const auto last = std::move(directories_.back());
    directories_.pop_back();
    const auto directory = open_directory(last.parts, last.parts.size());
    if (directory) TRY(set_attributes(directory->get(), last.entry));
  }
  return {};
}

mode_t Unpacker::mode_of(const Entry& entry) const {
  return entry.mode & (options_.within == Within::directory ? 01777 : 07777);
}

// Others act on the host: file capabilities, labels of security modules, marks of overlayfs.
bool Unpacker::is_allowed(const Xattr& xattr) const {
  return options_.within == Within::root || xattr.name.starts_with("user.") ||
         xattr.name == "system.posix_acl_access" || xattr.name == "system.posix_acl_default";
}

Result<void> Unpacker::set_attributes(int fd, const Entry& entry) const {
  if (options_.owner != Owner::own) {
    const bool kept = options_.owner == Owner::kept;
    if (::fchown(fd, kept ? entry.uid : 0, kept ? entry.gid : 0) < 0) {
      return fail_errno("cannot set the owner of '{}'", entry.name);
    }
  }
  if (::fchmod(fd, mode_of(entry)) < 0)
    return fail_errno("cannot set the mode of '{}'", entry.name);
  if (options_.owner != Owner::own) {
    for (const auto& xattr : entry.xattrs) {
      if (is_allowed(xattr) &&
          ::fsetxattr(fd, xattr.name.c_str(), xattr.value.data(), xattr.value.size(), 0) < 0 &&
          errno != ENOTSUP) {
        return fail_errno("cannot set '{}' of '{}'", xattr.name, entry.name);
      }
    }
  }
  const auto times = times_of(entry);
  if (::futimens(fd, times.data()) < 0)
    return fail_errno("cannot set the time of '{}'", entry.name);
  return {};
}

}  // namespace vmm::files
