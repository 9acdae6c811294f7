// The signals that ask a machine to stop.
#pragma once

#include <array>
#include <csignal>

namespace vmm {

// SIGTERM, SIGINT and SIGHUP, but for those that were ignored when the program was started: `nohup`
// and the background jobs of scripts are not to end with their terminal.
inline sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : std::array{SIGTERM, SIGINT, SIGHUP}) {
    struct sigaction action{};
    const bool known = ::sigaction(signal, nullptr, &action) == 0;
    if (!known || action.sa_handler != SIG_IGN) sigaddset(&set, signal);
  }
  return set;
}

}  // namespace vmm
