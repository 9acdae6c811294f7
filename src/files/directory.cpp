#include "src/files/directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <memory>

#include "src/base/text.h"

namespace vmm::files {

Result<UniqueFd> open_within(int directory, const std::string& path, int flags,
                             std::uint64_t resolve) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
  how.resolve = resolve;
  for (int attempt = 0;; ++attempt) {
    UniqueFd fd(
        static_cast<int>(::syscall(SYS_openat2, directory, path.c_str(), &how, sizeof how)));
    if (fd) return fd;
    // Something was renamed on the way: who does so all the time is not waited for.
    constexpr int kAttempts = 32;
    if (errno != EAGAIN || attempt == kAttempts) return fail_errno("cannot open '{}'", path);
  }
}

Result<UniqueFd> open_in_root(int root, const std::string& path, int flags) {
  return open_within(root, path.empty() ? "/" : path, flags,
                     RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

Result<std::set<std::string>> names_in(int directory) {
  UniqueFd copy(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!copy) return fail_errno("cannot read a directory");
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(copy.get()), &::closedir);
  if (!stream) return fail_errno("cannot read a directory");
  (void)copy.release();  // the stream's
  std::set<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* const one = ::readdir(stream.get());
    if (one == nullptr) break;
    const std::string_view name = one->d_name;
    if (name != "." && name != "..") names.emplace(name);
  }
  if (errno != 0) return fail_errno("cannot read a directory");
  return names;
}

Result<std::vector<std::string>> parts_of_name(std::string_view name) {
  if (name.size() >= kMaxPath) return fail("a name is longer than {} bytes", kMaxPath - 1);
  if (name.starts_with('/')) return fail("the name '{}' is absolute", name);
  std::vector<std::string> parts;
  for (const auto part : split(name, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") return fail("the name '{}' leads out of its directory", name);
    parts.emplace_back(part);
  }
  return parts;
}

std::string join(const std::vector<std::string>& parts, std::size_t count) {
  std::string path;
  for (std::size_t i = 0; i < count; ++i) path += (i == 0 ? "" : "/") + parts[i];
  return path;
}

Entry entry_of(const struct stat& status) {
  Entry entry;
  entry.mode = status.st_mode;
  entry.uid = status.st_uid;
  entry.gid = status.st_gid;
  entry.mtime = static_cast<std::uint64_t>(status.st_mtim.tv_sec);
  entry.mtime_ns = static_cast<std::uint32_t>(status.st_mtim.tv_nsec);
  if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)) {
    entry.major = major(status.st_rdev);
    entry.minor = minor(status.st_rdev);
  }
  return entry;
}

}  // namespace vmm::files
