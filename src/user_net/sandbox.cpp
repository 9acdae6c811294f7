#include "src/user_net/sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <memory>

#include "src/base/unique_fd.h"

namespace vmm::user_net {
namespace {

// Files are read for the name server's address only: /etc/resolv.conf, often a link into /run.
Result<void> restrict_files() {
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs =
      LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE |
      LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
      LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
      LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
      LANDLOCK_ACCESS_FS_MAKE_SYM;
  const UniqueFd rules(static_cast<int>(
      ::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, std::uint32_t{0})));
  if (!rules) {
    if (errno == ENOSYS || errno == EOPNOTSUPP) return {};
    return fail_errno("cannot restrict access to files");
  }
  for (const auto* folder : {"/etc", "/run"}) {
    const UniqueFd parent(::open(folder, O_PATH | O_CLOEXEC));
    if (!parent) continue;  // no name server, then
    landlock_path_beneath_attr rule{};
    rule.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE;
    rule.parent_fd = parent.get();
    if (::syscall(SYS_landlock_add_rule, rules.get(), LANDLOCK_RULE_PATH_BENEATH, &rule,
                  std::uint32_t{0}) < 0) {
      return fail_errno("cannot allow reading of '{}'", folder);
    }
  }
  if (::syscall(SYS_landlock_restrict_self, rules.get(), std::uint32_t{0}) < 0) {
    return fail_errno("cannot restrict access to files");
  }
  return {};
}

// Privilege was of use for published ports below 1024 only.
Result<void> drop_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> none{};
  if (::syscall(SYS_capset, &header, none.data()) < 0) return fail_errno("cannot drop privileges");
  return {};
}

constexpr std::array kAllowed = {
    // The machine, and the guest's connections.
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg), SCMP_SYS(recvmmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(sendmmsg),
    SCMP_SYS(bind), SCMP_SYS(connect), SCMP_SYS(listen), SCMP_SYS(accept), SCMP_SYS(accept4),
    SCMP_SYS(shutdown), SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt), SCMP_SYS(close), SCMP_SYS(fcntl), SCMP_SYS(ioctl), SCMP_SYS(poll),
    SCMP_SYS(ppoll), SCMP_SYS(restart_syscall),
    // Memory, time, random numbers.
    SCMP_SYS(brk), SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
    SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(getrandom), SCMP_SYS(futex),
    // /etc/resolv.conf; Landlock says which files.
    SCMP_SYS(openat), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(lseek),
    // The end, an abort among them.
    SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(getpid),
    SCMP_SYS(gettid), SCMP_SYS(tgkill), SCMP_SYS(sigaltstack), SCMP_SYS(exit),
    SCMP_SYS(exit_group)};

Result<void> restrict_system_calls() {
  struct Release {
    void operator()(void* filter) const { ::seccomp_release(filter); }
  };
  // Refused rather than killed: what a future C library adds need not end the network.
  const std::unique_ptr<void, Release> filter(::seccomp_init(SCMP_ACT_ERRNO(EPERM)));
  int result = filter == nullptr ? -ENOMEM : 0;
  for (const int number : kAllowed) {
    if (result == 0) result = ::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, number, 0);
  }
  for (const int family : {AF_INET, AF_INET6}) {
    if (result != 0) break;
    result = ::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                                SCMP_A0(SCMP_CMP_EQ, static_cast<scmp_datum_t>(family)));
  }
  if (result == 0) result = ::seccomp_load(filter.get());
  if (result != 0) return fail_errno_text(-result, "cannot restrict system calls");
  return {};
}

}  // namespace

Result<void> confine() {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return fail_errno("cannot drop privileges");
  TRY(restrict_files());
  TRY(drop_capabilities());
  return restrict_system_calls();
}

}  // namespace vmm::user_net
