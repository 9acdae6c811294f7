// What the child says through its pipe: how far it is, as often as it is further by a piece; at
// last what it wrote, or why it failed. A message is its kind, the length of its body, the body.
#include "src/hypervisor/session/memory_writer.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "src/base/sparse_file.h"
#include "src/base/thread.h"
#include "src/hypervisor/state/archive.h"

namespace vmm {
namespace {

constexpr std::uint64_t kPiece = 4u << 20;
constexpr auto kLookEvery = 50;  // milliseconds between looks whether it is cancelled

enum class Kind : std::uint8_t { progress, done, failed };
struct Head {
  Kind kind = Kind::failed;
  std::uint64_t length = 0;
};
struct Step {
  std::uint64_t done = 0, total = 0;
};

Result<void> tell(int pipe, Kind kind, std::span<const std::byte> body) {
  const Head head{kind, body.size()};
  std::vector<std::byte> message(sizeof head + body.size());
  std::memcpy(message.data(), &head, sizeof head);
  std::ranges::copy(body, message.begin() + sizeof head);
  return write_all(pipe, message);
}

void tell_error(int pipe, std::string_view text) {
  // Without a reader, there is nobody to tell.
  (void)tell(pipe, Kind::failed, std::as_bytes(std::span(text)));
}

// Of the child.
class ToldProgress : public Progress {
 public:
  explicit ToldProgress(int pipe) : pipe_(pipe) {}
  void begin(const char* /*phase*/, std::uint64_t total) override {
    step_ = {.total = total};
    told_ = 0;
    (void)say();  // as in tell_error()
  }
  Result<void> advance(std::uint64_t bytes) override {
    step_.done += bytes;
    if (step_.done - told_ < kPiece) return {};
    told_ = step_.done;
    return say();
  }

 private:
  Result<void> say() const {
    return tell(pipe_, Kind::progress, std::as_bytes(std::span(&step_, 1)));
  }
  const int pipe_;
  Step step_;
  std::uint64_t told_ = 0;
};

// Pieces of one extent are one again.
void append(std::vector<snapshot::Extent>& all, std::span<const snapshot::Extent> more) {
  for (const auto& extent : more) {
    if (!all.empty() && all.back().offset + all.back().length == extent.offset) {
      all.back().length += extent.length;
    } else {
      all.push_back(extent);
    }
  }
}

Result<snapshot::MemoryLayer> write_pieces(const MemoryToWrite& what,
                                           std::span<const snapshot::Extent> extents,
                                           Progress& progress) {
  snapshot::MemoryLayer layer{.complete = what.parent == nullptr, .extents = {}};
  for (const auto& extent : extents) {
    for (std::uint64_t at = 0; at < extent.length; at += kPiece) {
      const snapshot::Extent piece{extent.offset + at, std::min(kPiece, extent.length - at)};
      if (what.parent != nullptr) {
        append(layer.extents, TRY(snapshot::write_changed_pages(what.memory, *what.parent,
                                                                {&piece, 1}, what.file)));
      } else {
        TRY(snapshot::write_pages(what.memory, {&piece, 1}, what.file));
      }
      TRY(progress.advance(piece.length));
    }
  }
  return layer;
}

[[noreturn]] void run_child(const MemoryToWrite& what, int pipe) {
  constexpr int kPipe = 3, kMemory = 4;
  const int pipe_copy = ::fcntl(pipe, F_DUPFD, 10);
  const int memory_copy = ::fcntl(what.file, F_DUPFD, 10);
  if (pipe_copy < 0 || memory_copy < 0 || ::dup2(pipe_copy, kPipe) < 0 ||
      ::dup2(memory_copy, kMemory) < 0) {
    tell_error(pipe_copy < 0 ? pipe : pipe_copy,
               fail_errno("cannot keep the files of a live snapshot").error().message());
    ::_exit(1);
  }
  // Nothing of the machine may outlive it: locks of disks, sockets, KVM.
  ::close_range(kMemory + 1, ~0u, 0);
  set_thread_name("snapshot");
  MemoryToWrite mine = what;
  mine.file = kMemory;
  ToldProgress progress(kPipe);
  const auto written = write_memory(mine, progress);
  if (!written) {
    tell_error(kPipe, written.error().message());
    ::_exit(1);
  }
  ::_exit(tell(kPipe, Kind::done, state::encode(*written)) ? 0 : 1);
}

// The next message, or none when the pipe has ended.
Result<std::optional<std::pair<Kind, std::vector<std::byte>>>> read_message(int pipe,
                                                                            Progress& progress) {
  const auto read_all = [&](std::span<std::byte> target) -> Result<bool> {
    while (!target.empty()) {
      pollfd waiting{.fd = pipe, .events = POLLIN, .revents = 0};
      if (::poll(&waiting, 1, kLookEvery) <= 0) {
        TRY(progress.advance(0));
        continue;
      }
      const ssize_t n = ::read(pipe, target.data(), target.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      target = target.subspan(static_cast<std::size_t>(n));
    }
    return true;
  };
  std::array<std::byte, sizeof(Head)> bytes;
  if (!TRY(read_all(bytes))) return std::nullopt;
  Head head;
  std::memcpy(&head, bytes.data(), sizeof head);
  std::vector<std::byte> body(head.length);
  if (!TRY(read_all(body))) return std::nullopt;
  return std::pair(head.kind, std::move(body));
}

}  // namespace

Result<snapshot::MemoryLayer> write_memory(const MemoryToWrite& what, Progress& progress) {
  const auto write = [&]() -> Result<snapshot::MemoryLayer> {
    std::vector<snapshot::Extent> touched;
    auto extents = what.candidates;
    if (what.parent == nullptr) {
      touched = TRY(snapshot::touched_pages(what.memory));
      extents = touched;
    }
    std::uint64_t total = 0;
    for (const auto& extent : extents) total += extent.length;
    progress.begin("writing memory", total);
    return write_pieces(what, extents, progress);
  };
  auto written = write();
  if (written || written.error().code() == kCancelled) return written;
  return fail("cannot write '{}': {}", what.path, written.error().message());
}

Result<ForkedWriter> ForkedWriter::start(const MemoryToWrite& what) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) {
    return fail_errno("cannot make a pipe to write the memory of a live snapshot");
  }
  UniqueFd reader(ends[0]), writer_end(ends[1]);
  const pid_t self = ::getpid();
  const pid_t process = ::fork();
  if (process < 0) return fail_errno("cannot fork to write the memory of a live snapshot");
  if (process == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != self) ::_exit(1);
    run_child(what, writer_end.get());
  }
  // By number: <sys/pidfd.h> of glibc 2.36 is not for C++.
  UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
  if (!handle) {
    const auto error = fail_errno("cannot watch the process that writes a live snapshot");
    ::kill(process, SIGKILL);  // not waited for yet: the number is still its own
    ::waitpid(process, nullptr, 0);
    return error;
  }
  return ForkedWriter(std::move(handle), std::move(reader));
}

ForkedWriter::~ForkedWriter() {
  if (!process_) return;
  (void)::syscall(SYS_pidfd_send_signal, process_.get(), SIGKILL, nullptr, 0);
  (void)reap();
}

bool ForkedWriter::reap() {
  siginfo_t info{};
  int result_code = 0;
  do {
    result_code = ::waitid(P_PIDFD, static_cast<id_t>(process_.get()), &info, WEXITED);
  } while (result_code < 0 && errno == EINTR);
  process_.reset();
  return result_code == 0 && info.si_code == CLD_EXITED && info.si_status == 0;
}

Result<snapshot::MemoryLayer> ForkedWriter::wait(Progress& progress) {
  std::uint64_t done = 0;
  std::optional<snapshot::MemoryLayer> layer;
  while (const auto message = TRY(read_message(result_.get(), progress))) {
    const auto& [kind, body] = *message;
    if (kind == Kind::failed) {
      return fail("{}", std::string(reinterpret_cast<const char*>(body.data()), body.size()));
    }
    if (kind == Kind::done) {
      layer = TRY(state::decode<snapshot::MemoryLayer>(body));
      continue;
    }
    Step step;
    std::memcpy(&step, body.data(), std::min(sizeof step, body.size()));
    if (step.done == 0) progress.begin("writing memory", step.total);
    TRY(progress.advance(step.done - std::exchange(done, step.done)));
  }
  if (!reap() || !layer) return fail("the process that wrote the memory was killed");
  return std::move(*layer);
}

Result<void> sync_sparse(int fd, std::uint64_t size, Progress& progress) {
  progress.begin("syncing memory", size);
  std::uint64_t told = 0;
  for (std::uint64_t at = 0; at < size;) {
    const auto data = TRY(next_data(fd, at, size));
    const auto piece = std::min(kPiece, data.length);
    // Where this is not to be had, fdatasync() does it all.
    (void)::sync_file_range(
        fd, static_cast<off64_t>(data.offset), static_cast<off64_t>(piece),
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    at = data.offset + piece;
    if (data.length == 0) at = size;
    TRY(progress.advance(at - std::exchange(told, at)));
  }
  if (::fdatasync(fd) < 0) return fail_errno("cannot sync the memory's file");
  return {};
}

}  // namespace vmm
