#include "src/files/layer.h"

#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace vmm::files {
namespace {

constexpr const char* kOpaque = "trusted.overlay.opaque";
constexpr std::string_view kMark = ".wh.";  // of the names by which a layer hides others
// What the start of a container makes where an image has no place for a mount.
constexpr std::array<std::string_view, 6> kMountPoints = {
    "dev", "etc/hostname", "etc/hosts", "etc/resolv.conf", "proc", "sys"};

bool is_whiteout(const struct stat& status) {
  return S_ISCHR(status.st_mode) && status.st_rdev == 0;
}

bool is_opaque(int directory) {
  char value = 0;
  return ::fgetxattr(directory, kOpaque, &value, 1) == 1 && value == 'y';
}

UniqueFd open_directory(int directory, const std::string& name) {
  if (directory < 0) return UniqueFd();
  return UniqueFd(
      ::openat(directory, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

std::string child_of(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "/" + name;
}

// One that is not the container's own doing: it is empty, and the image has nothing there.
bool is_mount_point(int upper, int lower, const std::string& name, const std::string& path) {
  if (std::ranges::find(kMountPoints, path) == kMountPoints.end()) return false;
  struct stat status{};
  if (lower >= 0 && ::fstatat(lower, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) return false;
  if (::fstatat(upper, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0) return false;
  if (!S_ISDIR(status.st_mode)) return S_ISREG(status.st_mode) && status.st_size == 0;
  const auto names = names_in(open_directory(upper, name).get());
  return names && names->empty();
}

// A directory that is changed by these alone.
bool has_only_mount_points(int upper, int lower, const std::string& path) {
  const auto names = names_in(upper);
  return names && !names->empty() && std::ranges::all_of(*names, [&](const auto& name) {
           return is_mount_point(upper, lower, name, child_of(path, name));
         });
}

// Data or names that are elsewhere in the image.
Result<void> check_is_whole(int fd, const std::string& path) {
  for (const char* mark : {"trusted.overlay.redirect", "trusted.overlay.metacopy"}) {
    if (::fgetxattr(fd, mark, nullptr, 0) >= 0) {
      return fail("'{}' was moved in a way that no layer can say ({})", path, mark);
    }
  }
  return {};
}

Result<void> check_file(int directory, const std::string& name, const std::string& path) {
  const UniqueFd fd(
      ::openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  return fd ? check_is_whole(fd.get(), path) : Result<void>();
}

Result<void> pack_directory(Packer& packer, int upper, int lower, const std::string& path) {
  for (const auto& name : TRY(names_in(upper))) {
    const auto child = child_of(path, name);
    struct stat status{};
    if (::fstatat(upper, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0) continue;  // gone
    if (is_mount_point(upper, lower, name, child)) continue;
    if (name.starts_with(kMark)) {
      return fail(
          "no image can have a file named '{}': {} before a name removes the file of that "
          "name; rename or remove it",
          child, kMark);
    }
    if (is_whiteout(status)) {
      TRY(packer.add_empty(child_of(path, std::string(kMark) + name)));
      continue;
    }
    if (S_ISREG(status.st_mode)) TRY(check_file(upper, name, child));
    if (!TRY(packer.add_alone(upper, name, child)) || !S_ISDIR(status.st_mode)) continue;
    const auto inner = open_directory(upper, name);
    if (!inner) continue;
    TRY(check_is_whole(inner.get(), child));
    const auto below = open_directory(lower, name);
    // overlayfs marks new directories too, where there is nothing to hide.
    if (below && is_opaque(inner.get())) TRY(packer.add_empty(child + "/.wh..wh..opq"));
    TRY(pack_directory(packer, inner.get(), below.get(), child));
  }
  return {};
}

Result<void> list_directory(Packer& packer, int upper, int lower, const std::string& path) {
  auto names = TRY(names_in(upper));
  if (lower >= 0 && is_opaque(upper)) names.merge(TRY(names_in(lower)));
  for (const auto& name : names) {
    const auto child = child_of(path, name);
    if (child.size() >= kMaxPath) return fail("a path is longer than {} bytes", kMaxPath - 1);
    if (is_mount_point(upper, lower, name, child)) continue;
    struct stat status{}, before{};
    const bool was =
        lower >= 0 && ::fstatat(lower, name.c_str(), &before, AT_SYMLINK_NOFOLLOW) == 0;
    const bool is = ::fstatat(upper, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
    if (!is || is_whiteout(status)) {
      if (was) TRY(packer.send(Change{Change::Kind::deleted, "/" + child}));
      continue;
    }
    const auto inner = S_ISDIR(status.st_mode) ? open_directory(upper, name) : UniqueFd();
    const auto below = open_directory(lower, name);
    if (inner && below && has_only_mount_points(inner.get(), below.get(), child)) continue;
    TRY(packer.send(Change{was ? Change::Kind::changed : Change::Kind::added, "/" + child}));
    if (inner) TRY(list_directory(packer, inner.get(), below.get(), child));
  }
  return {};
}

}  // namespace

Result<void> pack_layer(Packer& packer, int upper, int lower) {
  return pack_directory(packer, upper, lower, "");
}

Result<void> list_changes(Packer& packer, int upper, int lower) {
  return list_directory(packer, upper, lower, "");
}

}  // namespace vmm::files
