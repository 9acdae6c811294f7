#include "src/base/thread.h"

#include <sys/prctl.h>

#include <cstdio>
#include <cstdlib>
#include <system_error>

#include "src/base/signal_stack.h"

namespace vmm {
namespace {

// Blocks the calling thread's signals while it lives: a thread that is started meanwhile has none.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT}) {
      sigdelset(&all, signal);
    }
    pthread_sigmask(SIG_BLOCK, &all, &old_);
  }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &old_, nullptr); }

 private:
  sigset_t old_;
};

// Of the calling thread.
void unblock(int signal) {
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, signal);
  pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
}

}  // namespace

void set_thread_name(const std::string& name) { ::prctl(PR_SET_NAME, name.c_str()); }

Result<std::thread> start_thread(const std::string& name, std::function<void()> task, int kept) {
  try {
    const BlockedSignals blocked;
    return std::thread([name, task = std::move(task), kept] {
      set_thread_name(name);
      // Whoever started this one may have it blocked.
      if (kept != 0) unblock(kept);
      const SignalStack stack;
      if (const auto ran = caught(task); !ran) {
        fmt::print(stderr, "vmm: thread '{}': {}\n", name, ran.error().message());
        // What is static is left alone, as other threads use it; the terminal's mode is restored.
        std::quick_exit(kInternalErrorCode);
      }
    });
  } catch (const std::system_error& error) {
    return fail("cannot start thread '{}': {}", name, error.code().message());
  }
}

}  // namespace vmm
