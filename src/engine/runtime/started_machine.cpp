#include "src/engine/runtime/started_machine.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "src/engine/runtime/agent_machine.h"

namespace vmm::engine {
namespace {

namespace agent = protocol::agent;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kRetry{10};

}  // namespace

Result<StartedMachine> StartedMachine::start(const std::string& program,
                                             const std::vector<std::string>& words,
                                             const std::string& directory, int lock) {
  return StartedMachine(TRY(Monitor::start(program, words, directory, lock)), directory);
}

StartedMachine::~StartedMachine() { (void)reap(); }

Result<void> StartedMachine::wait_for_agent(std::chrono::seconds patience) {
  const auto deadline = Clock::now() + patience;
  for (;;) {
    const auto answer = ask_agent<agent::Welcome>(directory_, agent::Hello{}, patience);
    if (answer) return {};
    if (has_ended(kRetry)) {
      const auto words = said();
      return fail("{}", words.empty() ? "the machine ended by itself" : words);
    }
    if (Clock::now() > deadline) return std::unexpected(answer.error());
  }
}

Result<void> StartedMachine::wait(std::chrono::seconds patience) {
  if (!has_ended(patience)) return fail("the container's machine does not end");
  const auto words = said();
  const int status = reap();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  if (WIFSIGNALED(status)) {
    return fail("the container's machine was killed by signal {}", WTERMSIG(status));
  }
  return fail("{}", words.empty() ? "the container's machine ended with an error" : words);
}

bool StartedMachine::has_ended(milliseconds time) const {
  pollfd ended{monitor_.pidfd.get(), POLLIN, 0};
  return ::poll(&ended, 1, static_cast<int>(time.count())) > 0;
}

// Its last line.
std::string StartedMachine::said() const {
  std::array<char, 4096> buffer;
  const ssize_t n = ::read(monitor_.errors.get(), buffer.data(), buffer.size());
  return last_line({buffer.data(), n > 0 ? static_cast<std::size_t>(n) : 0});
}

int StartedMachine::reap() {
  int status = 0;
  if (!monitor_.pidfd) return status;
  (void)::syscall(SYS_pidfd_send_signal, monitor_.pidfd.get(), SIGKILL, nullptr, 0);  // or it ended
  while (::waitpid(monitor_.pid, &status, 0) < 0 && errno == EINTR) {
  }
  monitor_.pidfd.reset();
  for (const char* socket : {"vsock", "control"}) {
    (void)::unlink(fmt::format("{}/{}", directory_, socket).c_str());
  }
  return status;
}

}  // namespace vmm::engine
