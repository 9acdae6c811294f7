#include "src/user_net/sandbox.h"

#include <linux/capability.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>

#include "src/base/unique_fd.h"

namespace vmm::user_net {
namespace {

// What the kernel knows beyond the headers that this was built with: by version of Landlock's ABI
// (landlock(7)).
struct RulesetAttributes {
  std::uint64_t files = 0, network = 0, scopes = 0;
};
constexpr std::uint64_t kFilesAtFirst = (1ull << 13) - 1;  // all but what follows
constexpr std::uint64_t kRefer = 1ull << 13, kTruncate = 1ull << 14, kDeviceIoctl = 1ull << 15;
constexpr std::uint64_t kBindTcp = 1ull << 0;  // connecting is what the process is for
constexpr std::uint64_t kAbstractSockets = 1ull << 0, kSignals = 1ull << 1;

RulesetAttributes attributes_of(long abi) {
  RulesetAttributes attributes{.files = kFilesAtFirst};
  if (abi >= 2) attributes.files |= kRefer;
  if (abi >= 3) attributes.files |= kTruncate;
  if (abi >= 4) attributes.network = kBindTcp;
  if (abi >= 5) attributes.files |= kDeviceIoctl;
  if (abi >= 6) attributes.scopes = kAbstractSockets | kSignals;
  return attributes;
}

// Privilege was of use for published ports below 1024 only.
Result<void> drop_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> none{};
  if (::syscall(SYS_capset, &header, none.data()) < 0) return fail_errno("cannot drop privileges");
  return {};
}

// No file is opened, and no port: those that are published listen already, or are handed over.
constexpr std::array kAllowed = {
    // The machine, and the guest's connections.
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg), SCMP_SYS(recvmmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(sendmmsg),
    SCMP_SYS(connect), SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(shutdown),
    SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt),
    SCMP_SYS(close), SCMP_SYS(dup3), SCMP_SYS(fcntl), SCMP_SYS(ioctl), SCMP_SYS(poll),
    SCMP_SYS(ppoll), SCMP_SYS(restart_syscall),
    // Memory, time, random numbers.
    SCMP_SYS(brk), SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
    SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(getrandom), SCMP_SYS(futex),
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
  // Its own limits: of descriptors, as ports come and go.
  if (result == 0) {
    result = ::seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1,
                                SCMP_A0(SCMP_CMP_EQ, scmp_datum_t{0}));
  }
  if (result == 0) result = ::seccomp_load(filter.get());
  if (result != 0) return fail_errno_text(-result, "cannot restrict system calls");
  return {};
}

}  // namespace

// No rule is added, so all that is handled is refused: the process needs no file.
Result<Landlock> restrict_files() {
  const long abi = ::syscall(SYS_landlock_create_ruleset, nullptr, std::size_t{0},
                             std::uint32_t{LANDLOCK_CREATE_RULESET_VERSION});
  if (abi < 0 && (errno == ENOSYS || errno == EOPNOTSUPP)) return Landlock::none;
  if (abi < 0) return fail_errno("cannot restrict access to files");
  // Fields that an older kernel does not know are zero, as it wants them.
  const auto attributes = attributes_of(abi);
  const UniqueFd rules(static_cast<int>(
      ::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, std::uint32_t{0})));
  if (!rules || ::syscall(SYS_landlock_restrict_self, rules.get(), std::uint32_t{0}) < 0) {
    return fail_errno("cannot restrict access to files");
  }
  return Landlock::some;
}

Result<Landlock> confine() {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return fail_errno("cannot drop privileges");
  const auto landlock = TRY(restrict_files());
  TRY(drop_capabilities());
  TRY(restrict_system_calls());
  return landlock;
}

}  // namespace vmm::user_net
