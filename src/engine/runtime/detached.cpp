#include "src/engine/runtime/detached.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <exception>

namespace vmm::engine {
namespace {

// No descriptor but `kept`, no terminal.
UniqueFd leave_parent(const std::string& name, int kept) {
  (void)::prctl(PR_SET_NAME, name.c_str());
  constexpr int kKept = 3;
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int target = 0; null >= 0 && target < kKept; ++target) (void)::dup2(null, target);
  if (kept >= 0 && kept != kKept) (void)::dup3(kept, kKept, O_CLOEXEC);
  (void)::close_range(kept < 0 ? kKept : kKept + 1, ~0u, 0);
  return kept < 0 ? UniqueFd() : UniqueFd(kKept);
}

}  // namespace

Result<void> start_detached(const std::string& name, int kept,
                            const std::function<bool(UniqueFd kept)>& work) {
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("cannot start a process");
  if (child == 0) {
    (void)::setsid();
    if (const pid_t again = ::fork(); again != 0) ::_exit(again < 0 ? 1 : 0);
    try {
      ::_exit(work(leave_parent(name, kept)) ? 0 : 1);
    } catch (const std::exception&) {
      ::_exit(1);
    }
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) return fail("cannot start a process: too many of them, or too little memory");
  return {};
}

}  // namespace vmm::engine
