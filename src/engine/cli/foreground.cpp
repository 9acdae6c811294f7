#include "src/engine/cli/foreground.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace vmm::engine::cli {
namespace {

constexpr std::size_t kMuchInput = 256u << 10;
constexpr int kClosedOutput = 128 + SIGPIPE;

}  // namespace

Foreground::Foreground(EventLoop& loop, Options options, Peer peer)
    : loop_(loop), options_(std::move(options)), peer_(std::move(peer)) {}

Foreground::~Foreground() {
  if (saved_) (void)::tcsetattr(STDIN_FILENO, TCSADRAIN, &*saved_);
}

Result<void> Foreground::check_terminal(bool input, bool tty) {
  if (input && tty && ::isatty(STDIN_FILENO) == 0) return fail("the input device is not a TTY");
  return {};
}

Result<void> Foreground::begin() {
  TRY(take_signals());
  if (options_.tty) send_size();
  if (!options_.input) return {};
  if (options_.tty) take_terminal();
  struct stat status{};
  // epoll does not take these: they never wait.
  input_is_file_ = ::fstat(STDIN_FILENO, &status) == 0 && !S_ISFIFO(status.st_mode) &&
                   !S_ISSOCK(status.st_mode) && ::isatty(STDIN_FILENO) == 0;
  if (!input_is_file_) {
    input_watch_.emplace(loop_, STDIN_FILENO, [this](std::uint32_t) { read_input(); });
  }
  expect_input();
  return {};
}

Result<void> Foreground::take_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGWINCH);
  if (options_.pass_signals && !options_.tty) {
    for (int number = 1; number < NSIG; ++number) {
      const bool is_own = number == SIGCHLD || number == SIGPIPE || number == SIGURG ||
                          number == SIGKILL || number == SIGSTOP || number == SIGSEGV ||
                          number == SIGBUS || number == SIGILL || number == SIGFPE ||
                          number == SIGABRT || number == SIGTSTP || number == SIGTTIN ||
                          number == SIGTTOU || number == SIGCONT;
      if (!is_own) ::sigaddset(&signals, number);
    }
  }
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  signals_ = UniqueFd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return fail_errno("cannot make a signal descriptor");
  signals_watch_.emplace(loop_, signals_.get(), [this](std::uint32_t) { read_signals(); });
  signals_watch_->want(EPOLLIN);
  return {};
}

void Foreground::take_terminal() {
  termios mode{};
  if (::tcgetattr(STDIN_FILENO, &mode) < 0) return;
  saved_ = mode;
  ::cfmakeraw(&mode);
  (void)::tcsetattr(STDIN_FILENO, TCSADRAIN, &mode);
}

void Foreground::read_signals() {
  signalfd_siginfo signal{};
  while (::read(signals_.get(), &signal, sizeof signal) == sizeof signal) {
    if (signal.ssi_signo == SIGWINCH) {
      send_size();
    } else {
      peer_.signal(static_cast<int>(signal.ssi_signo));
    }
  }
}

void Foreground::send_size() {
  winsize size{};
  if (!options_.tty || ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0) return;
  peer_.resize({size.ws_col, size.ws_row});
}

void Foreground::expect_input() {
  if (input_ended_ || peer_.input_pending() > kMuchInput) {
    if (input_watch_) input_watch_->want(0);
    return;
  }
  if (input_watch_) return input_watch_->want(EPOLLIN);
  loop_.post([this] { read_input(); });
}

void Foreground::input_taken() {
  if (options_.input) expect_input();
}

void Foreground::read_input() {
  if (input_ended_) return;
  std::array<char, 65536> buffer;
  const ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return expect_input();
  if (n <= 0) {
    input_ended_ = true;
    if (input_watch_) input_watch_->want(0);
    return peer_.input_end();
  }
  const std::string_view typed(buffer.data(), static_cast<std::size_t>(n));
  if (options_.tty) {
    const auto passed = options_.keys.filter(typed);
    if (!passed.empty()) peer_.input(passed);
    if (options_.keys.is_complete()) return finish(0);
  } else {
    peer_.input(typed);
  }
  expect_input();
}

void Foreground::output(wire::Stream stream, std::string_view bytes) {
  const int fd = stream == wire::Stream::output ? STDOUT_FILENO : STDERR_FILENO;
  const auto written = write_all(fd, std::as_bytes(std::span(bytes)));
  if (!written && stream == wire::Stream::output) finish(kClosedOutput);
}

void Foreground::finish(int code) {
  code_ = code;
  if (input_watch_) input_watch_->want(0);
  input_ended_ = true;
  loop_.stop();
}

}  // namespace vmm::engine::cli
