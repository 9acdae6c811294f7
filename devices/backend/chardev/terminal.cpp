#include "devices/backend/chardev/terminal.h"

#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <string_view>

#include "src/base/signal_stack.h"

namespace vmm::chardev {
namespace {

constexpr std::string_view kHelp =
    "\r\nCtrl-A h  this help\r\n"
    "Ctrl-A p  press the power button: the guest shuts down\r\n"
    "Ctrl-A x  end the machine at once\r\n"
    "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n";

// Those that end no process by default, and those that cannot be caught.
constexpr std::array kSpared = {SIGKILL, SIGSTOP, SIGTSTP, SIGTTIN,  SIGTTOU,
                                SIGCHLD, SIGCONT, SIGURG,  SIGWINCH, SIGPIPE};

// The mode to go back to. Written before the handlers are installed, never after.
termios saved_mode;
volatile std::sig_atomic_t mode_changed = 0;
pid_t owner = 0;  // a fork of it leaves the terminal alone

// Async-signal-safe: tcsetattr, getpid and pthread_sigmask are (POSIX.1-2017, 2.4.3).
void restore_mode() {
  if (mode_changed == 0 || ::getpid() != owner) return;
  mode_changed = 0;
  // In the background the terminal would stop us otherwise.
  sigset_t stop, old;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTTOU);
  pthread_sigmask(SIG_BLOCK, &stop, &old);
  (void)tcsetattr(STDIN_FILENO, TCSANOW, &saved_mode);  // nobody is left to be told
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

// Sent once more, it is delivered when the handler returns.
void restore_and_die(int signal, siginfo_t* info, void* /*context*/) {
  // The kernel's for a write past RLIMIT_FSIZE, to who made it: the write's error says the same.
  if (signal == SIGXFSZ && info->si_pid == ::getpid()) return;
  restore_mode();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

// For each signal that ends the process. What is ignored, by `nohup` say, stays ignored.
void install_handlers() {
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction old{};
    if (std::ranges::find(kSpared, signal) != kSpared.end() ||
        sigaction(signal, nullptr, &old) < 0 || old.sa_handler == SIG_IGN) {
      continue;
    }
    struct sigaction action{};
    action.sa_sigaction = restore_and_die;
    action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    sigfillset(&action.sa_mask);
    sigaction(signal, &action, nullptr);  // the C library keeps two for itself: EINVAL
  }
}

bool enter_raw_mode() {
  if (tcgetattr(STDIN_FILENO, &saved_mode) < 0) return false;
  static const bool installed = [] {
    owner = ::getpid();
    std::atexit(restore_mode);
    std::at_quick_exit(restore_mode);
    [[maybe_unused]] static auto* stack =
        new SignalStack;  // of the main thread, as long as it lives
    install_handlers();
    return true;
  }();
  (void)installed;
  termios raw = saved_mode;
  cfmakeraw(&raw);
  raw.c_oflag |= OPOST;  // our own log lines keep their carriage returns
  mode_changed = 1;
  return tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

}  // namespace

Terminal::Terminal(EventLoop& loop, TerminalActions actions)
    : Chardev(loop), actions_(std::move(actions)) {
  raw_ = isatty(STDIN_FILENO) != 0 && enter_raw_mode();
  output_ = own_output(STDOUT_FILENO);
  attach(STDIN_FILENO, output_ ? output_.get() : STDOUT_FILENO);
}

Terminal::~Terminal() {
  detach();
  restore_mode();
}

std::size_t Terminal::filter_input(std::span<std::byte> bytes) {
  if (!raw_) return bytes.size();  // a pipe's bytes are all for the guest
  std::size_t kept = 0;
  for (const auto byte : bytes) {
    if (on_key(static_cast<char>(byte))) bytes[kept++] = byte;
  }
  return kept;
}

bool Terminal::on_key(char key) {
  if (!escaped_) {
    escaped_ = key == kEscapeKey;
    return !escaped_;
  }
  escaped_ = false;
  switch (key) {
    case kEscapeKey:
      return true;
    case 'p':
      if (actions_.power_button) actions_.power_button();
      return false;
    case 'x':
      if (actions_.quit) actions_.quit();
      return false;
    default:
      write(std::as_bytes(std::span(kHelp)));
      return false;
  }
}

}  // namespace vmm::chardev
