#include "src/engine/cli/watched_transfer.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>

#include "src/engine/cli/commands.h"

namespace vmm::engine::cli {
namespace {

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP};

// For the handler: one transfer at a time.
std::array<struct sigaction, kSignals.size()> previous_actions;
std::atomic<int> received_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler writes it");

void restore_signals() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], &previous_actions[i], nullptr);
  }
}

// The next one kills.
void on_signal(int signal) {
  received_signal = signal;
  restore_signals();
}

void take_signals() {
  received_signal = 0;
  struct sigaction action{};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (const int signal : kSignals) sigaddset(&action.sa_mask, signal);
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], nullptr, &previous_actions[i]);
  }
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    // What is ignored (nohup, a job in the background) stays ignored.
    if (previous_actions[i].sa_handler != SIG_IGN) ::sigaction(kSignals[i], &action, nullptr);
  }
}

// A terminal that can be drawn on, and is not somebody else's now.
bool can_draw_on(int fd) {
  const char* terminal = std::getenv("TERM");
  return ::isatty(fd) == 1 && terminal != nullptr && std::string_view(terminal) != "dumb" &&
         ::tcgetpgrp(fd) == ::getpgrp();
}

Screen screen_of(int fd) {
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) < 0 || size.ws_col == 0 || size.ws_row == 0) return {};
  return {size.ws_col, size.ws_row};
}

}  // namespace

WatchedTransfer::WatchedTransfer(FILE* out, std::string before)
    : out_(out),
      before_(std::move(before)),
      lines_(
          [out](std::string_view text) {
            fmt::print(out, "{}", text);
            std::fflush(out);
          },
          [out, draws = out != nullptr && can_draw_on(::fileno(out))]() -> std::optional<Screen> {
            if (!draws) return std::nullopt;
            return screen_of(::fileno(out));
          }) {
  events_.on_layer = [this](const Digest& layer, std::string_view what) {
    begin();
    if (out_ != nullptr) lines_.tell(layer, what);
  };
  events_.on_bytes = [this](const Digest& layer, std::string_view what, std::uint64_t done,
                            std::uint64_t total) {
    if (out_ != nullptr) lines_.advance(layer, what, done, total);
  };
  events_.is_cancelled = [] { return received_signal != 0; };
}

WatchedTransfer::~WatchedTransfer() {
  if (has_begun_) restore_signals();
}

void WatchedTransfer::begin() {
  if (std::exchange(has_begun_, true)) return;
  take_signals();
  if (out_ != nullptr) fmt::print(out_, "{}", before_);
}

void WatchedTransfer::finish(bool succeeded, std::string_view what) {
  if (succeeded) begin();  // an image without layers
  if (!std::exchange(has_begun_, false)) return;
  restore_signals();
  const int signal = received_signal;
  if (signal == 0) return;
  // Too late to cancel the work: what would follow it is not wanted all the same.
  if (!succeeded) print_error(fmt::format("interrupted: {}", what));
  ::raise(signal);
  // The first process of a container is not ended by a signal that it does not handle.
  std::exit(128 + signal);
}

}  // namespace vmm::engine::cli
