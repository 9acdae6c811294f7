#include "src/engine/cli/interruption.h"

#include <signal.h>

#include <array>
#include <cstdlib>
#include <utility>

#include "src/engine/cli/commands.h"

namespace vmm::engine::cli {
namespace {

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP};

// For the handler: one at a time.
std::array<struct sigaction, kSignals.size()> previous_actions;
std::atomic<int> received_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler writes it");

void restore_actions() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], &previous_actions[i], nullptr);
  }
}

// The next one kills.
void on_signal(int signal) {
  received_signal = signal;
  restore_actions();
}

}  // namespace

Interruption::Interruption() {
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

bool Interruption::has_come() { return received_signal != 0; }

Result<void> Interruption::advance(std::uint64_t /*bytes*/) {
  if (has_come()) return std::unexpected(Error("cancelled", kCancelled));
  return {};
}

void Interruption::restore_signals() {
  if (std::exchange(has_signals_, false)) restore_actions();
}

void Interruption::finish(bool succeeded, std::string_view what) {
  restore_signals();
  if (!succeeded) finish_all(succeeded, what);
}

void Interruption::finish_all(bool succeeded, std::string_view what) {
  restore_signals();
  const int signal = received_signal;
  if (signal == 0) return;
  if (!succeeded) print_error(fmt::format("interrupted: {}", what));
  ::raise(signal);
  // The first process of a container is not ended by a signal that it does not handle.
  std::exit(128 + signal);
}

}  // namespace vmm::engine::cli
