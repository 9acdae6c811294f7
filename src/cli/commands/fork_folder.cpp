#include "src/cli/commands/fork_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>
#include <vector>

namespace vmm::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kLock = "lock";

// "12.control", "12.console", "12.log", and what a console's rotation leaves: "12.console.1".
bool is_ours(std::string_view name) {
  if (name == kLock) return true;
  const auto digits = name.find_first_not_of("0123456789");
  if (digits == 0 || digits == std::string_view::npos) return false;
  constexpr std::array<std::string_view, 4> kEnds = {".control", ".console", ".console.1", ".log"};
  return std::ranges::find(kEnds, name.substr(digits)) != kEnds.end();
}

Result<std::vector<std::string>> names_in(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (auto entry = fs::directory_iterator(path, error); !error && entry != fs::end(entry);
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error) return fail("cannot read '{}': {}", path, error.message());
  return names;
}

// Our own names only, and the folder if nothing is left in it.
void remove(const std::string& path) {
  const auto names = names_in(path);
  if (!names) return;
  for (const auto& name : *names) {
    if (is_ours(name)) ::unlink(fmt::format("{}/{}", path, name).c_str());
  }
  ::rmdir(path.c_str());
}

// Out of the way of the few numbers that a forked machine gets its descriptors at.
Result<UniqueFd> moved_up(const UniqueFd& fd) {
  UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 10));
  if (!copy) return fail_errno("cannot duplicate a descriptor");
  return copy;
}

Result<UniqueFd> take_lock(const std::string& path, int more_flags) {
  const auto file = TRY(
      open_file(fmt::format("{}/{}", path, kLock), O_RDWR | O_NOFOLLOW | O_NONBLOCK | more_flags));
  if (::flock(file.get(), LOCK_EX | LOCK_NB) < 0) {
    return fail("'{}' exists, and an earlier fork or a machine of it still runs there", path);
  }
  return moved_up(file);
}

// Of a fork that was killed before it was done; null: there is nothing left of it.
Result<UniqueFd> take_over(const std::string& path) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) < 0) return fail_errno("cannot examine '{}'", path);
  const bool own = S_ISDIR(status.st_mode) && status.st_uid == ::geteuid();
  const auto names = own ? TRY(names_in(path)) : std::vector<std::string>();
  // Killed before there was a lock, perhaps.
  if (own && names.empty() && ::rmdir(path.c_str()) == 0) return UniqueFd();
  if (!own || std::ranges::find(names, kLock) == names.end() ||
      !std::ranges::all_of(names, is_ours)) {
    return fail("cannot make '{}': it exists, and no fork that was cut off left it", path);
  }
  auto lock = TRY(take_lock(path, 0));
  for (const auto& name : names) {
    if (name != kLock) ::unlink(fmt::format("{}/{}", path, name).c_str());
  }
  return lock;
}

}  // namespace

Result<ForkFolder> ForkFolder::create(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) < 0) {
    if (errno != EEXIST) return fail_errno("cannot make '{}'", path);
    if (auto lock = TRY(take_over(path))) return ForkFolder(path, std::move(lock));
    if (::mkdir(path.c_str(), 0700) < 0) return fail_errno("cannot make '{}'", path);
  }
  return ForkFolder(path, TRY(take_lock(path, O_CREAT | O_EXCL)));
}

ForkFolder::~ForkFolder() {
  if (lock_) remove(path_);
}

void ForkFolder::finish() {
  ::unlink(fmt::format("{}/{}", path_, kLock).c_str());
  lock_.reset();
}

}  // namespace vmm::cli
