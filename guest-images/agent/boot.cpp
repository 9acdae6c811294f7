#include "guest-images/agent/boot.h"

#include <fcntl.h>
#include <linux/module.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <span>
#include <string>

#include "guest-images/agent/container.h"
#include "guest-images/agent/machine.h"
#include "src/base/text.h"
#include "src/base/unique_fd.h"

namespace vmm::agent {
namespace {

// Beside the agent in the initramfs: one file name a line, in the order in which they are loaded.
constexpr const char* kModules = "/modules";

Result<void> load_modules() {
  const auto list = read_text_file(std::string(kModules) + "/list");
  if (!list) return {};  // a kernel that has all built in
  for (const std::string_view name : split(*list, '\n')) {
    if (name.empty()) continue;
    const std::string path = std::string(kModules) + "/" + std::string(name);
    const auto file = TRY(open_file(path, O_RDONLY));
    if (::syscall(SYS_finit_module, file.get(), "", 0) < 0 && errno != EEXIST &&
        errno != ENODEV) {  // of a processor's instructions that this one lacks
      return fail_errno("cannot load the module '{}'", name);
    }
    (void)::unlink(path.c_str());  // its memory is the machine's
  }
  return {};
}

// The kernel's first root cannot be left by pivot_root, as containers do: this one can.
Result<void> change_root() {
  TRY(make_directories("/root"));
  if (::mount("tmpfs", "/root", "tmpfs", 0, "mode=755") < 0 || ::chdir("/root") < 0 ||
      ::mount(".", "/", nullptr, MS_MOVE, nullptr) < 0 || ::chroot(".") < 0 || ::chdir("/") < 0) {
    return fail_errno("cannot make the root");
  }
  return {};
}

struct Mounted {
  const char *type, *target;
  unsigned long flags;
  const char* data;
};
constexpr std::array kMounts = {Mounted{"proc", "/proc", kKernelMountFlags, nullptr},
                                Mounted{"sysfs", "/sys", kKernelMountFlags, nullptr},
                                Mounted{"devtmpfs", "/dev", MS_NOSUID, nullptr},
                                Mounted{"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755"},
                                Mounted{"cgroup2", kCgroups, kKernelMountFlags, nullptr}};

Result<void> raise_loopback() {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  request.ifr_name[0] = 'l';
  request.ifr_name[1] = 'o';
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (!socket || ::ioctl(socket.get(), SIOCSIFFLAGS, &request) < 0) {
    return fail_errno("cannot set 'lo' up");
  }
  return {};
}

}  // namespace

Result<void> boot() {
  ::umask(022);
  // For the agent's connections, and what containers start with, as under Docker.
  constexpr rlimit kDescriptors{1u << 20, 1u << 20};
  if (::setrlimit(RLIMIT_NOFILE, &kDescriptors) < 0)
    return fail_errno("cannot raise RLIMIT_NOFILE");
  TRY(load_modules());
  TRY(change_root());
  for (const Mounted& one : kMounts) {
    TRY(make_directories(one.target));
    if (::mount(one.type, one.target, one.type, one.flags, one.data) < 0) {
      return fail_errno("cannot mount '{}'", one.target);
    }
  }
  // Descriptors 0 to 2 are taken whatever the kernel has opened.
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int target = 0; null >= 0 && target < 3; ++target) (void)::dup2(null, target);
  if (null > 2) ::close(null);
  wait_for_mapped_image();
  return raise_loopback();
}

void say_on_console(const std::string& line) {
  // A machine without a console has nobody to read it.
  const UniqueFd console(::open("/dev/console", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
  const std::string text = line + "\n";
  if (console) (void)write_all(console.get(), std::as_bytes(std::span(text)));
}

}  // namespace vmm::agent
