#include "src/base/forked_task.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <array>
#include <string_view>

#include "src/base/caught.h"
#include "src/base/thread.h"

namespace vmm {
namespace {

constexpr int kPipe = 3;
// What it says first: the bytes of the result follow, or the error.
constexpr std::byte kDone{'+'}, kFailed{'-'};

int tell(int pipe, std::byte first, std::span<const std::byte> body) {
  std::vector<std::byte> message = {first};
  message.insert(message.end(), body.begin(), body.end());
  return write_all(pipe, message) && first == kDone ? 0 : 1;
}

int tell_error(int pipe, std::string_view text) {
  return tell(pipe, kFailed, std::as_bytes(std::span(text)));
}

// In the copy; returns its exit code. `copies`: the pipe, and the files.
int run(const std::string& name, const std::vector<UniqueFd>& copies,
        const ForkedTask::Task& task) {
  std::vector<int> files;
  for (std::size_t i = 0; i < copies.size(); ++i) {
    const int number = kPipe + static_cast<int>(i);
    if (::dup2(copies[i].get(), number) < 0) {
      return tell_error(copies[0].get(), fail_errno("cannot keep a file").error().message());
    }
    if (i > 0) files.push_back(number);
  }
  // Nothing else may outlive this process: locks of files, sockets, KVM.
  if (::close_range(kPipe + static_cast<unsigned>(copies.size()), ~0u, 0) < 0) {
    return tell_error(kPipe, fail_errno("cannot close files").error().message());
  }
  set_thread_name(name);
  const auto result = caught([&] { return task(files); });
  return result ? tell(kPipe, kDone, *result) : tell_error(kPipe, result.error().message());
}

}  // namespace

Result<ForkedTask> ForkedTask::start(const std::string& name, const std::vector<int>& files,
                                     const Task& task) {
  auto pipe = TRY(Pipe::create());
  std::vector<int> wanted = {pipe.write_end.get()};
  wanted.insert(wanted.end(), files.begin(), files.end());
  const auto copies = TRY(copy_descriptors(wanted, kPipe + static_cast<int>(wanted.size())));
  const pid_t self = ::getpid();
  const pid_t process = ::fork();
  if (process < 0) return fail_errno("cannot fork for '{}'", name);
  if (process == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::_exit(::getppid() == self ? run(name, copies, task) : 1);
  }
  return ForkedTask(name, TRY(Child::adopt(process)), std::move(pipe.read_end));
}

Result<std::vector<std::byte>> ForkedTask::result() {
  std::vector<std::byte> message;
  std::array<std::byte, 65536> chunk;
  for (;;) {
    const ssize_t n = ::read(result_.get(), chunk.data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    message.insert(message.end(), chunk.begin(), chunk.begin() + n);
  }
  const auto end = child_.wait();
  const auto body = std::span(message).subspan(message.empty() ? 0 : 1);
  if (!message.empty() && message[0] == kFailed) {
    return fail("{}", std::string(reinterpret_cast<const char*>(body.data()), body.size()));
  }
  if (message.empty() || !end.is_success()) return fail("the process '{}' {}", name_, end.text());
  return std::vector<std::byte>(body.begin(), body.end());
}

}  // namespace vmm
