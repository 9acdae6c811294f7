// In this order: sources of bind mounts are opened where the machine's paths are seen; the
// container's root becomes the root; /proc, /dev and /sys; the mounts that were asked for; names
// and sysctls. What is read-only or hidden becomes so last (close_container).
#include "guest-images/agent/container.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "src/base/text.h"
#include "src/base/unique_fd.h"

namespace vmm::agent {
namespace {

using protocol::agent::Container;
using protocol::agent::Mount;

Result<void> mount_at(const char* type, const std::string& target, unsigned long flags,
                      const std::string& data = "") {
  if (::mount(type, target.c_str(), type, flags, data.c_str()) < 0) {
    return fail_errno("cannot mount {} at '{}'", type, target);
  }
  return {};
}

// A mount of the container's, kept by a descriptor across the change of the root.
struct Source {
  UniqueFd tree;
  std::string target;
  bool is_directory = true;
  bool read_only = false;
  bool may_fail = false;  // in an image without a place for it
};

Result<Source> open_source(const std::string& path, const std::string& target) {
  struct stat status{};
  if (::stat(path.c_str(), &status) < 0) return fail_errno("cannot mount '{}'", path);
  Source source{UniqueFd(::open_tree(AT_FDCWD, path.c_str(),
                                     OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)),
                target, S_ISDIR(status.st_mode)};
  if (!source.tree) return fail_errno("cannot mount '{}'", path);
  return source;
}

Result<void> make_target(const std::string& target, bool is_directory) {
  if (is_directory) return make_directories(target);
  const auto slash = target.rfind('/');
  if (slash != 0 && slash != std::string::npos) TRY(make_directories(target.substr(0, slash)));
  if (::access(target.c_str(), F_OK) == 0) return {};
  const UniqueFd made(::open(target.c_str(), O_CREAT | O_WRONLY | O_NONBLOCK | O_CLOEXEC, 0644));
  if (!made) return fail_errno("cannot make the mount point '{}'", target);
  return {};
}

Result<void> remount_read_only(const std::string& target, unsigned attributes = 0) {
  mount_attr attribute{};
  attribute.attr_set = MOUNT_ATTR_RDONLY | attributes;
  if (::mount_setattr(AT_FDCWD, target.c_str(), 0, &attribute, sizeof attribute) < 0) {
    return fail_errno("cannot make '{}' read-only", target);
  }
  return {};
}

Result<void> attach(const Source& source) {
  TRY(make_target(source.target, source.is_directory));
  if (::move_mount(source.tree.get(), "", AT_FDCWD, source.target.c_str(),
                   MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS) < 0) {
    return fail_errno("cannot mount at '{}'", source.target);
  }
  if (source.read_only) TRY(remount_read_only(source.target));
  return {};
}

Result<void> change_root(const std::string& root) {
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) {
    return fail_errno("cannot make mounts private");
  }
  // A root is to be a mount.
  if (::mount(root.c_str(), root.c_str(), nullptr, MS_BIND | MS_REC, nullptr) < 0 ||
      ::chdir(root.c_str()) < 0) {
    return fail_errno("cannot use '{}' as root", root);
  }
  // The old root comes to lie over the new one, and goes.
  if (::syscall(SYS_pivot_root, ".", ".") < 0 || ::umount2(".", MNT_DETACH) < 0 ||
      ::chdir("/") < 0) {
    return fail_errno("cannot change the root to '{}'", root);
  }
  return {};
}

// A link in place of /proc would lead what is hidden and protected astray.
Result<void> make_plain_directory(const std::string& path) {
  struct stat status{};
  if (::mkdir(path.c_str(), 0755) < 0 && errno != EEXIST) {
    return fail_errno("cannot make '{}'", path);
  }
  if (::lstat(path.c_str(), &status) < 0 || !S_ISDIR(status.st_mode)) {
    return fail("'{}' of the image is not a directory", path);
  }
  return {};
}

struct Node {
  const char* path;
  unsigned major, minor;
};
constexpr std::array kNodes = {Node{"/dev/null", 1, 3},    Node{"/dev/zero", 1, 5},
                               Node{"/dev/full", 1, 7},    Node{"/dev/random", 1, 8},
                               Node{"/dev/urandom", 1, 9}, Node{"/dev/tty", 5, 0}};
constexpr std::array kLinks = {
    std::pair{"/proc/self/fd", "/dev/fd"},       std::pair{"/proc/self/fd/0", "/dev/stdin"},
    std::pair{"/proc/self/fd/1", "/dev/stdout"}, std::pair{"/proc/self/fd/2", "/dev/stderr"},
    std::pair{"/proc/kcore", "/dev/core"},       std::pair{"pts/ptmx", "/dev/ptmx"}};
constexpr unsigned kTtyGroup = 5;

Result<void> make_devices(std::uint64_t shm_size) {
  TRY(make_plain_directory("/dev"));
  TRY(mount_at("tmpfs", "/dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=64k"));
  constexpr mode_t kForAll = 0666;
  for (const Node& node : kNodes) {
    // The second call is for what the umask took.
    if (::mknod(node.path, S_IFCHR | kForAll, ::makedev(node.major, node.minor)) < 0 ||
        ::chmod(node.path, kForAll) < 0) {
      return fail_errno("cannot make '{}'", node.path);
    }
  }
  for (const auto& [target, path] : kLinks) {
    if (::symlink(target, path) < 0) return fail_errno("cannot make '{}'", path);
  }
  for (const char* path : {"/dev/pts", "/dev/shm", "/dev/mqueue"}) {
    TRY(make_plain_directory(path));
  }
  TRY(mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC,
               fmt::format("newinstance,ptmxmode=0666,mode=0620,gid={}", kTtyGroup)));
  TRY(mount_at("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV | MS_NOEXEC,
               fmt::format("mode=1777,size={}", shm_size)));
  return mount_at("mqueue", "/dev/mqueue", kKernelMountFlags);
}

Result<void> make_kernel_mounts(const Container& container) {
  const unsigned long access = container.mask_paths ? MS_RDONLY : 0;
  TRY(make_plain_directory("/proc"));
  TRY(mount_at("proc", "/proc", kKernelMountFlags));
  TRY(make_devices(container.shm_size));
  TRY(make_plain_directory("/sys"));
  TRY(mount_at("sysfs", "/sys", kKernelMountFlags | access));
  return mount_at("cgroup2", "/sys/fs/cgroup", kKernelMountFlags | access);
}

Result<void> write_sysctl(const protocol::agent::Sysctl& sysctl) {
  std::string path = sysctl.name;
  std::ranges::replace(path, '.', '/');
  if (path.contains("//") || path.starts_with('/')) return fail("invalid sysctl '{}'", sysctl.name);
  const auto file = open_file("/proc/sys/" + path, O_WRONLY);
  if (!file || !write_all(file->get(), std::as_bytes(std::span(sysctl.value)))) {
    return fail_errno("cannot set the sysctl '{}' to '{}'", sysctl.name, sysctl.value);
  }
  return {};
}

// As Docker has them.
constexpr std::array kHidden = {
    "/proc/acpi",       "/proc/asound",      "/proc/interrupts",
    "/proc/kcore",      "/proc/keys",        "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
    "/proc/scsi",       "/sys/firmware",     "/sys/devices/virtual/powercap"};
constexpr std::array kProtected = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                   "/proc/sysrq-trigger"};

Result<void> hide(const char* path) {
  struct stat status{};
  if (::stat(path, &status) < 0) return {};  // another kernel
  if (S_ISDIR(status.st_mode)) return mount_at("tmpfs", path, MS_RDONLY, "size=0k");
  if (::mount("/dev/null", path, nullptr, MS_BIND, nullptr) < 0) {
    return fail_errno("cannot hide '{}'", path);
  }
  return {};
}

Result<void> protect(const char* path) {
  if (::access(path, F_OK) < 0) return {};
  if (::mount(path, path, nullptr, MS_BIND | MS_REC, nullptr) < 0) {
    return fail_errno("cannot protect '{}'", path);
  }
  return remount_read_only(path, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

}  // namespace

Result<void> make_directories(const std::string& path) {
  for (std::size_t at = 0; at != std::string::npos;) {
    at = path.find('/', at + 1);
    const std::string part = path.substr(0, at);
    if (part.empty() || ::mkdir(part.c_str(), 0755) == 0) continue;
    struct stat status{};
    if (::stat(part.c_str(), &status) < 0)
      return fail_errno("cannot make the directory '{}'", part);
    if (!S_ISDIR(status.st_mode)) return fail("'{}' is not a directory", part);
  }
  return {};
}

Result<void> enter_new_container(const Container& container, const Places& places) {
  std::vector<Source> sources;
  for (const char* file : {"hosts", "resolv.conf", "hostname"}) {
    const std::string path = places.files + "/" + file;
    if (::access(path.c_str(), F_OK) < 0) continue;
    sources.push_back(TRY(open_source(path, std::string("/etc/") + file)));
    sources.back().may_fail = true;
  }
  std::vector<Source> binds;
  for (const Mount& mount : container.mounts) {
    if (!mount.target.starts_with('/'))
      return fail("mount target '{}' is not absolute", mount.target);
    if (mount.type != Mount::Type::bind) continue;
    binds.push_back(TRY(open_source(mount.source, mount.target)));
    binds.back().read_only = mount.read_only;
  }
  TRY(change_root(places.root));
  TRY(make_kernel_mounts(container));
  for (const Source& source : sources) {
    if (auto attached = attach(source); !attached && !source.may_fail) return attached;
  }
  auto bind = binds.begin();
  for (const Mount& mount : container.mounts) {
    if (mount.type == Mount::Type::bind) {
      TRY(attach(*bind++));
      continue;
    }
    TRY(make_directories(mount.target));
    TRY(mount_at("tmpfs", mount.target,
                 MS_NOSUID | MS_NODEV | MS_NOEXEC | (mount.read_only ? MS_RDONLY : 0),
                 mount.options));
  }
  if (!container.host_name.empty() &&
      ::sethostname(container.host_name.data(), container.host_name.size()) < 0) {
    return fail_errno("cannot set the host name '{}'", container.host_name);
  }
  if (!container.domain_name.empty() &&
      ::setdomainname(container.domain_name.data(), container.domain_name.size()) < 0) {
    return fail_errno("cannot set the domain name '{}'", container.domain_name);
  }
  for (const auto& sysctl : container.sysctls) TRY(write_sysctl(sysctl));
  return {};
}

Result<void> mount_console(const std::string& terminal) {
  const UniqueFd file(::open("/dev/console", O_CREAT | O_RDONLY | O_CLOEXEC, 0600));
  if (!file || ::mount(terminal.c_str(), "/dev/console", nullptr, MS_BIND, nullptr) < 0) {
    return fail_errno("cannot mount '{}' at '/dev/console'", terminal);
  }
  return {};
}

Result<void> close_container(const Container& container) {
  if (container.mask_paths) {
    for (const char* path : kHidden) TRY(hide(path));
    for (const char* path : kProtected) TRY(protect(path));
  }
  return container.read_only_root ? remount_read_only("/") : Result<void>();
}

}  // namespace vmm::agent
