#include "src/hypervisor/snapshot/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "src/hypervisor/snapshot/origin.h"
#include "src/hypervisor/snapshot/seal.h"
#include "src/hypervisor/snapshot/working_set.h"

namespace vmm::snapshot {
namespace {

namespace fs = std::filesystem;

bool is_disk_name(std::string_view name) {
  constexpr std::string_view kDevice = "blk";
  if (!name.starts_with(kDevice)) return false;
  name.remove_prefix(kDevice.size());
  const auto digits = std::min(name.find_first_not_of("0123456789"), name.size());
  const auto suffix = name.substr(digits);
  return digits > 0 && digits < 10 && (suffix == ".img" || suffix == ".qcow2");
}

}  // namespace

Result<UniqueFd> open_part(const std::string& directory, std::string_view name) {
  const auto path = directory + "/" + std::string(name);
  // O_NONBLOCK, so that a FIFO does not hang.
  auto fd = open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  if (!fd && fd.error().code() == ELOOP) return fail("'{}' is a symbolic link", path);
  if (!fd) return fd;
  struct stat status{};
  if (::fstat(fd->get(), &status) < 0) return fail_errno("cannot examine '{}'", path);
  if (!S_ISREG(status.st_mode)) return fail("'{}' is not a regular file", path);
  return fd;
}

Result<std::string> read_part(const std::string& directory, std::string_view name,
                              std::size_t limit) {
  const auto fd = TRY(open_part(directory, name));
  struct stat status{};
  if (::fstat(fd.get(), &status) < 0) return fail_errno("cannot examine '{}/{}'", directory, name);
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > limit) {
    return fail("'{}/{}' has {} bytes: expected at most {}", directory, name, size, limit);
  }
  std::string text(size, '\0');
  if (const auto read = read_exact_at(fd.get(), std::as_writable_bytes(std::span(text)), 0);
      !read) {
    return fail("cannot read '{}/{}': {}", directory, name, read.error().message());
  }
  return text;
}

bool is_fixed_name(std::string_view name) {
  return name == kManifestFile || name == kStateFile || name == kMemoryFile ||
         name == kKernelFile || name == kInitrdFile || name == kSealFile || name == kOriginFile ||
         name == kWorkingSetFile || name == kWorkingSetPartial;
}

bool is_own_name(std::string_view name) { return is_fixed_name(name) || is_disk_name(name); }

Result<std::vector<ListedFile>> list_files(int directory, const std::string& path) {
  UniqueFd again(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(again ? ::fdopendir(again.get()) : nullptr,
                                                    &::closedir);
  if (!entries) return fail_errno("cannot list '{}'", path);
  (void)again.release();  // it is of `entries`
  std::vector<ListedFile> found;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(entries.get());
    if (entry == nullptr && errno != 0) return fail_errno("cannot list '{}'", path);
    if (entry == nullptr) return found;
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat status{};
    const bool known = ::fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
    found.push_back({name, known && S_ISREG(status.st_mode)});
  }
}

Result<UniqueFd> lock_partial(const std::string& path) {
  auto fd = open_file(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!fd && (fd.error().code() == ELOOP || fd.error().code() == ENOTDIR)) {
    return fail("'{}' is not a directory that a save made", path);
  }
  if (!fd) return fd;
  struct stat ours{}, named{};
  if (::fstat(fd->get(), &ours) < 0) return fail_errno("cannot examine '{}'", path);
  if (ours.st_uid != ::geteuid()) return fail("'{}' belongs to another user", path);
  // The lock goes with the process: what a killed one left behind is nobody's. Not when another
  // process was done meanwhile: then this is its snapshot, and not the directory of that name.
  if (::flock(fd->get(), LOCK_EX | LOCK_NB) < 0 || ::lstat(path.c_str(), &named) < 0 ||
      ours.st_dev != named.st_dev || ours.st_ino != named.st_ino) {
    return fail_errno_text(EWOULDBLOCK, fmt::format("another process saves in '{}'", path));
  }
  return fd;
}

Result<void> clear_partial(int directory, const std::string& path) {
  const auto files = TRY(list_files(directory, path));
  for (const auto& file : files) {
    if (file.regular && is_own_name(file.name)) continue;
    return fail("'{}' has '{}' in it, which no save made; nothing was removed", path, file.name);
  }
  for (const auto& file : files) {
    if (::unlinkat(directory, file.name.c_str(), 0) < 0 && errno != ENOENT) {
      return fail_errno("cannot remove '{}/{}'", path, file.name);
    }
  }
  return {};
}

Result<std::string> real_path_of_new(const std::string& path) {
  auto trimmed = path;
  while (trimmed.size() > 1 && trimmed.ends_with('/')) trimmed.pop_back();
  const fs::path whole = trimmed;
  const auto name = whole.filename().string();
  if (name.empty() || name == "." || name == "..") {
    return fail("'{}' does not name a new directory", path);
  }
  std::error_code error;
  const auto parent = fs::canonical(whole.has_parent_path() ? whole.parent_path() : ".", error);
  if (error) return fail("cannot make '{}': {}", path, error.message());
  return (parent / name).string();
}

}  // namespace vmm::snapshot
