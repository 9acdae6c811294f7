// 1. The work runs on the calling thread and tells a JobProgress how far it is.
// 2. A thread looks at it ten times a second and draws; it begins after half a second, so that
//    quick work says nothing.
// 3. The handler of SIGINT, SIGTERM and SIGHUP cancels the job, and makes the next signal kill.
// 4. finish() ends the thread, removes the bar, and ends the process if a signal cancelled the
//    work.
#include "src/cli/commands/long_work.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "src/base/text.h"
#include "src/base/thread.h"
#include "src/cli/commands/commands.h"
#include "src/cli/commands/progress_text.h"

namespace vmm::cli {
namespace {

using namespace std::chrono_literals;

constexpr auto kQuiet = 500ms;  // quick work says nothing
constexpr auto kRedraw = 100ms;
constexpr auto kPlainEvery = 5s;
constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP};

// For the handler: one LongWork at a time.
JobProgress* cancelled_by_signal;
std::array<struct sigaction, kSignals.size()> previous_actions;
volatile sig_atomic_t received_signal;

void on_signal(int signal) {
  received_signal = signal;
  cancelled_by_signal->cancel();
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], &previous_actions[i], nullptr);
  }
}

bool is_foreground() { return ::tcgetpgrp(STDERR_FILENO) == ::getpgrp(); }

// The terminal may be gone, which is no reason to end.
void say(const std::string& text) { (void)std::fputs(text.c_str(), stderr); }

std::size_t terminal_width() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

Result<ProgressDisplay> parse_progress(const std::string& mode) {
  if (mode == "none") return ProgressDisplay::none;
  if (mode == "plain") return ProgressDisplay::plain;
  if (mode == "auto") {
    const char* terminal = std::getenv("TERM");
    const bool can_redraw = terminal != nullptr && std::string_view(terminal) != "dumb";
    return ::isatty(STDERR_FILENO) == 1 && can_redraw ? ProgressDisplay::bar
                                                      : ProgressDisplay::none;
  }
  constexpr std::array<std::string_view, 3> kModes = {"auto", "plain", "none"};
  return fail("--progress: invalid value '{}'{}: expected auto, plain or none", mode,
              did_you_mean(mode, kModes));
}

struct LongWork::Display {
  Display(const JobProgress& watched, ProgressDisplay how) : job(watched), mode(how) {
    // Where no thread is to be had, the work goes on without a bar.
    if (auto started = start_thread("progress", [this] { run(); })) thread = std::move(*started);
  }
  ~Display() {
    {
      std::lock_guard lock(mutex);
      ended = true;
    }
    wake.notify_one();
    if (thread.joinable()) thread.join();
  }

  // False: the work has ended.
  bool wait(std::chrono::milliseconds time) {
    std::unique_lock lock(mutex);
    return !wake.wait_for(lock, time, [this] { return ended; });
  }
  void run() {
    RateMeter meter;
    const auto begin = std::chrono::steady_clock::now();
    auto next = begin;       // a plain line
    std::string_view phase;  // that was printed
    bool drawn = false;
    while (wait(kRedraw)) {
      const auto now = std::chrono::steady_clock::now();
      const auto state = job.state();
      const double rate = meter.add(state, now);
      if (now < begin + kQuiet || state.phase.empty()) continue;
      if (mode == ProgressDisplay::plain) {
        if (now < next && state.phase == phase) continue;
        say(progress_line(state, rate) + "\n");
        phase = state.phase;
        next = now + kPlainEvery;
      } else if (is_foreground()) {
        // The last column stays free: a terminal may begin a line with it.
        say("\r" + progress_bar(state, rate, terminal_width() - 1) + "\x1b[K");
        drawn = true;
      }
    }
    if (drawn) say("\r\x1b[K");
  }

  const JobProgress& job;
  const ProgressDisplay mode;
  std::mutex mutex;  // guards ended
  std::condition_variable wake;
  bool ended = false;
  std::thread thread;
};

LongWork::LongWork(ProgressDisplay display) {
  cancelled_by_signal = &job_;
  received_signal = 0;
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], nullptr, &previous_actions[i]);
  }
  struct sigaction action{};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (const int signal : kSignals) sigaddset(&action.sa_mask, signal);
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    // What is ignored (nohup, a job in the background) stays ignored.
    if (previous_actions[i].sa_handler != SIG_IGN) ::sigaction(kSignals[i], &action, nullptr);
  }
  if (display == ProgressDisplay::none) return;
  try {
    display_ = std::make_unique<Display>(job_, display);
  } catch (const std::system_error&) {
    // No thread to be had: the work goes on without a bar.
  }
}

LongWork::~LongWork() { restore_signals(); }

Progress& LongWork::progress() { return job_; }

void LongWork::restore_signals() {
  if (std::exchange(finished_, true)) return;
  display_.reset();
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], &previous_actions[i], nullptr);
  }
}

void LongWork::finish(bool succeeded, const std::string& what) {
  restore_signals();
  const int signal = received_signal;
  if (succeeded || signal == 0) return;
  (void)refuse("interrupted: " + what);
  ::raise(signal);
  // The first process of a container is not ended by a signal that it does not handle.
  std::exit(128 + signal);
}

}  // namespace vmm::cli
