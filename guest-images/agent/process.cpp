#include "guest-images/agent/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace vmm::agent {

using protocol::agent::Exited;
using protocol::agent::Failed;
using protocol::agent::Kind;
using protocol::agent::Started;

Process::Process(EventLoop& loop, protocol::agent::Start start)
    : loop_(loop), start_(std::move(start)) {}

Result<void> Process::start(const Places& places, const Cgroup* cgroup, int container) {
  cgroup_ = cgroup;
  if (cgroup_ != nullptr) out_of_memory_before_ = cgroup_->out_of_memory();
  launched_ =
      TRY(launch(start_, places, cgroup_ != nullptr ? cgroup_->descriptor() : -1, container));
  if (launched_.input) {
    input_.emplace(loop_, std::move(launched_.input),
                   start_.keep_input ? InputPump::AtEnd::waits : InputPump::AtEnd::ends);
  }
  const auto pump = [this](std::optional<OutputPump>& output, UniqueFd source) {
    if (source) output.emplace(loop_, std::move(source), start_.lost_output, [this] { tell(); });
  };
  pump(output_, std::move(launched_.output));
  pump(error_, std::move(launched_.error));
  report_watch_.emplace(loop_, launched_.report.get(), [this](std::uint32_t) { read_report(); });
  report_watch_->want(EPOLLIN);
  return {};
}

void Process::read_report() {
  for (;;) {
    auto report = receive_report(launched_.report.get());
    if (!report && (report.error().code() == EAGAIN || report.error().code() == EINTR)) return;
    if (report && report->terminal) {
      take_terminal(std::move(report->terminal));
      continue;
    }
    if (report && report->failure) {
      failure_ = std::move(report->failure);
      continue;
    }
    if (report && !report->ended) continue;
    reported_ = true;
    report_watch_.reset();
    launched_.report.reset();
    return tell();
  }
}

void Process::take_terminal(UniqueFd terminal) {
  if (!start_.terminal || terminal_) return;
  UniqueFd source(::fcntl(terminal.get(), F_DUPFD_CLOEXEC, 3));
  UniqueFd target(::fcntl(terminal.get(), F_DUPFD_CLOEXEC, 3));
  terminal_ = std::move(terminal);
  if (!source || !target) return;  // too many descriptors: a terminal that says nothing
  // The end of a connection is no end of a terminal: that would be a character.
  input_.emplace(loop_, std::move(target), InputPump::AtEnd::waits);
  output_.emplace(loop_, std::move(source), start_.lost_output, [this] { tell(); });
}

bool Process::has_stream(Kind kind) const {
  switch (kind) {
    case Kind::standard_input:
      return start_.input && !start_.terminal;
    case Kind::standard_output:
    case Kind::standard_error:
      return !start_.terminal;
    case Kind::terminal:
      return start_.terminal.has_value();
    default:
      return false;
  }
}

void Process::attach(Kind kind, UniqueFd connection) {
  if (kind == Kind::terminal) {
    // Each direction has a descriptor of its own in the loop.
    UniqueFd copy(::fcntl(connection.get(), F_DUPFD_CLOEXEC, 3));
    if (!copy) return;
    if (input_) input_->attach(std::move(copy));
  }
  if (kind == Kind::standard_input) {
    if (input_) input_->attach(std::move(connection));
  } else if (kind == Kind::standard_error) {
    if (error_) error_->attach(std::move(connection));
  } else if (output_) {
    output_->attach(std::move(connection));
  }
}

Result<void> Process::resize(const protocol::agent::TerminalSize& size) {
  if (!terminal_) return fail("the process has no terminal");
  const winsize window{size.rows, size.columns, 0, 0};
  if (::ioctl(terminal_.get(), TIOCSWINSZ, &window) < 0) return fail_errno("cannot resize");
  return {};
}

Result<void> Process::signal(int number) {
  if (is_over()) return fail("the process has ended");
  if (::syscall(SYS_pidfd_send_signal, launched_.pidfd.get(), number, nullptr, 0) < 0) {
    return fail_errno("cannot send signal {}", number);
  }
  return {};
}

void Process::ended(int status) {
  if (launched_.report) read_report();  // what it said last
  reported_ = true;
  report_watch_.reset();
  launched_.report.reset();
  Exited exited;
  if (WIFSIGNALED(status)) {
    exited.signal = static_cast<std::uint8_t>(WTERMSIG(status));
  } else {
    exited.code = static_cast<std::uint8_t>(WEXITSTATUS(status));
  }
  exited.out_of_memory = cgroup_ != nullptr && cgroup_->out_of_memory() > out_of_memory_before_;
  status_ = exited;
  launched_.pidfd.reset();
  if (input_) input_->finish();
  if (output_) output_->finish();
  if (error_) error_->finish();
  terminal_.reset();
  tell();
}

void Process::give_up(std::string why) {
  failure_ = Failed{Failed::Reason::setup, ETIMEDOUT, std::move(why)};
  (void)signal(SIGKILL);  // or it has ended
}

std::uint64_t Process::moved() const {
  return (input_ ? input_->moved() : 0) + (output_ ? output_->moved() : 0) +
         (error_ ? error_->moved() : 0);
}

bool Process::waits_for_client() const {
  return input_ || (output_ && output_->is_untaken()) || (error_ && error_->is_untaken());
}

void Process::follow(MessageChannel* control) {
  control_ = control;
  told_start_ = told_ = false;
  tell();
}

void Process::unfollow(const MessageChannel* control) {
  if (control_ == control) control_ = nullptr;
}

void Process::tell() {
  if (control_ == nullptr || !reported_ || told_) return;
  if (failure_) {
    if (!status_) return;  // it is about to end
    told_ = true;
    return control_->send(*failure_);
  }
  if (!told_start_) {
    told_start_ = true;
    control_->send(Started{static_cast<std::uint32_t>(launched_.pid)});
  }
  if (!status_ || (output_ && !output_->drained()) || (error_ && !error_->drained())) return;
  told_ = true;
  control_->send(*status_);
}

}  // namespace vmm::agent
