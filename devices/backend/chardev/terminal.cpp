#include "devices/backend/chardev/terminal.h"

#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string_view>

namespace vmm::chardev {
namespace {

constexpr std::string_view kHelp =
    "\r\nCtrl-A h  this help\r\n"
    "Ctrl-A p  press the power button: the guest shuts down\r\n"
    "Ctrl-A x  end the machine at once\r\n"
    "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n";

// The mode to go back to. Written before the handlers are installed, never after.
termios saved_mode;
volatile std::sig_atomic_t mode_changed = 0;

// Async-signal-safe: tcsetattr is (POSIX.1-2017, 2.4.3).
void restore_mode() {
  if (mode_changed == 0) return;
  mode_changed = 0;
  (void)tcsetattr(STDIN_FILENO, TCSANOW, &saved_mode);  // nobody is left to be told
}

void restore_and_die(int signal) {
  restore_mode();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

bool enter_raw_mode() {
  if (tcgetattr(STDIN_FILENO, &saved_mode) < 0) return false;
  static const bool installed = [] {
    std::atexit(restore_mode);
    for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGHUP, SIGQUIT}) {
      struct sigaction action{};
      action.sa_handler = restore_and_die;
      sigaction(signal, &action, nullptr);
    }
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
  attach(STDIN_FILENO, STDOUT_FILENO);
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
