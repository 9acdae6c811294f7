// The child of the agent has one thread and a copy of its memory, of which nothing is used but the
// message. It cannot be traced from within the container (not dumpable) until it is the program,
// for until then it is the agent's own.
#include "guest-images/agent/launch.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#include "guest-images/agent/file_task.h"
#include "guest-images/agent/users.h"
#include "src/base/text.h"

namespace vmm::agent {
namespace {

using protocol::agent::Failed;
using protocol::agent::Start;

constexpr unsigned long kNamespaces = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS;
constexpr std::size_t kReportSize = 4096;
constexpr std::size_t kAccountFile = 1u << 20;  // bytes of /etc/passwd that are read at most

Result<std::pair<UniqueFd, UniqueFd>> make_pipe() {
  std::array<int, 2> ends;
  if (::pipe2(ends.data(), O_CLOEXEC) < 0) return fail_errno("cannot make a pipe");
  return std::pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

void set_nonblocking(const UniqueFd& fd) {
  (void)::fcntl(fd.get(), F_SETFL, O_NONBLOCK);  // fails for no pipe and no terminal
}

struct Streams {
  UniqueFd input, output, error;  // the process's ends
};

class Child {
 public:
  Child(const Start& start, const Places& places, int container, Streams streams, UniqueFd report)
      : start_(start),
        places_(places),
        container_(container),
        streams_(std::move(streams)),
        report_(std::move(report)) {}

  [[noreturn]] void run();

 private:
  Result<void> enter();
  Result<void> open_terminal();
  Result<void> look_up();
  Result<void> set_up_process();
  Result<void> take_streams();
  Result<void> become_user();
  Result<void> drop_capabilities() const;
  void execute();
  [[noreturn]] void do_file_task();
  [[noreturn]] void reap_as_init(pid_t child);
  void say(const Failed& failure) const;
  const char* variable(std::string_view name) const;

  const Start& start_;
  const Places& places_;
  const int container_;
  Streams streams_;
  UniqueFd report_;
  Credentials user_;
};

void Child::say(const Failed& failure) const {
  Failed bounded = failure;
  bounded.text.resize(std::min(bounded.text.size(), kReportSize - 256));
  const std::string bytes = protocol::encode_fields(bounded);
  (void)!::send(report_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);  // or the agent is gone
}

[[noreturn]] void Child::run() {
  (void)::prctl(PR_SET_DUMPABLE, 0);
  (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
  (void)::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);  // those that the agent was started with
  sigset_t none;
  ::sigemptyset(&none);
  for (int number = 1; number < NSIG; ++number) (void)::signal(number, SIG_DFL);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (start_.files) do_file_task();

  const auto prepared = [&]() -> Result<void> {
    TRY(enter());
    TRY(look_up());
    if (start_.terminal) TRY(open_terminal());
    if (start_.container) TRY(close_container(*start_.container));
    return set_up_process();
  }();
  if (!prepared) {
    say({Failed::Reason::setup, static_cast<std::uint32_t>(prepared.error().code()),
         prepared.error().message()});
    ::_exit(125);
  }
  if (start_.container && start_.container->init) {
    // Nothing that comes before it waits is to be missed.
    sigset_t all;
    ::sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, nullptr);
    const pid_t child = ::fork();
    if (child > 0) reap_as_init(child);
    if (child < 0) {
      say({Failed::Reason::setup, static_cast<std::uint32_t>(errno), "cannot fork"});
      ::_exit(125);
    }
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
  }
  if (const auto ready = [&]() -> Result<void> {
        TRY(take_streams());
        return become_user();
      }();
      !ready) {
    say({Failed::Reason::setup, static_cast<std::uint32_t>(ready.error().code()),
         ready.error().message()});
    ::_exit(125);
  }
  execute();
  ::_exit(127);
}

Result<void> Child::enter() {
  if (start_.container) {
    // The process is in its control group already: that is the root of what it sees.
    if (::unshare(CLONE_NEWCGROUP) < 0) return fail_errno("cannot make a cgroup namespace");
    return enter_new_container(*start_.container, places_);
  }
  if (::setns(container_, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) < 0) {
    return fail_errno("cannot enter the container");
  }
  return {};
}

// No descriptor of the agent's stays open in it: whose end a peer waits for would not end.
[[noreturn]] void Child::do_file_task() {
  ::setsid();
  ::umask(0);  // modes are as they are asked for
  const std::array<int, 3> descriptors = {streams_.input.get(), streams_.output.get(),
                                          streams_.error.get()};
  for (int target = 0; target < 3; ++target) {
    (void)::dup2(descriptors[static_cast<std::size_t>(target)], target);  // the agent has 0 to 2
  }
  (void)::close_range(3, ~0u, 0);  // with the end of the report, it is started
  const auto done = run_file_task(*start_.files, places_, STDIN_FILENO, STDOUT_FILENO);
  if (done) ::_exit(0);
  (void)write_all(STDERR_FILENO,
                  std::as_bytes(std::span(done.error().message())));  // or nobody hears
  ::_exit(1);
}

// Of a container that may have put a pipe, or a device, in place of the file.
std::string account_file(const char* path) {
  const UniqueFd file(::open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat status{};
  if (!file || ::fstat(file.get(), &status) < 0 || !S_ISREG(status.st_mode)) return "";
  std::string text(std::min<std::size_t>(kAccountFile, static_cast<std::size_t>(status.st_size)),
                   '\0');
  const ssize_t n = ::read(file.get(), text.data(), text.size());
  text.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
  return text;
}

Result<void> Child::look_up() {
  user_ = TRY(look_up_user(start_.user, start_.groups, account_file("/etc/passwd"),
                           account_file("/etc/group")));
  return {};
}

winsize window_of(const protocol::agent::TerminalSize& size) {
  return {.ws_row = size.rows, .ws_col = size.columns, .ws_xpixel = 0, .ws_ypixel = 0};
}

// Of the container's own devpts, so that its name is known there; the agent gets the master.
Result<void> Child::open_terminal() {
  const UniqueFd master(::open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
  int unlock = 0;
  unsigned number = 0;
  if (!master || ::ioctl(master.get(), TIOCSPTLCK, &unlock) < 0 ||
      ::ioctl(master.get(), TIOCGPTN, &number) < 0) {
    return fail_errno("cannot open a terminal");
  }
  const std::string path = fmt::format("/dev/pts/{}", number);
  streams_.input = UniqueFd(::open(path.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  const winsize window = window_of(*start_.terminal);
  if (!streams_.input || ::ioctl(streams_.input.get(), TIOCSWINSZ, &window) < 0) {
    return fail_errno("cannot open the terminal '{}'", path);
  }
  if (start_.container) TRY(mount_console(path));

  std::byte something{};
  iovec data{&something, 1};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const head = CMSG_FIRSTHDR(&message);
  *head = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  const int descriptor = master.get();
  std::memcpy(CMSG_DATA(head), &descriptor, sizeof descriptor);
  if (::sendmsg(report_.get(), &message, MSG_NOSIGNAL) < 0) {
    return fail_errno("cannot hand over the terminal");
  }
  return {};
}

Result<void> Child::set_up_process() {
  ::umask(start_.umask & 0777);
  if (start_.oom_score) {
    const std::string score = fmt::format("{}", static_cast<int>(*start_.oom_score) - 1000);
    const auto file = TRY(open_file("/proc/self/oom_score_adj", O_WRONLY));
    TRY(write_all(file.get(), std::as_bytes(std::span(score))));
  }
  for (const auto& limit : start_.limits) {
    const rlimit value{limit.soft, limit.hard};
    if (limit.resource >= RLIMIT_NLIMITS ||
        ::setrlimit(static_cast<__rlimit_resource>(limit.resource), &value) < 0) {
      return fail_errno("cannot set limit {} to {}:{}", limit.resource, limit.soft, limit.hard);
    }
  }
  const std::string directory = start_.working_directory.empty() ? "/" : start_.working_directory;
  if (!directory.starts_with('/')) return fail("working directory '{}' is not absolute", directory);
  if (::chdir(directory.c_str()) < 0) {
    TRY(make_directories(directory));
    if (::chdir(directory.c_str()) < 0) {
      return fail_errno("cannot use the working directory '{}'", directory);
    }
  }
  return {};
}

Result<void> Child::take_streams() {
  ::setsid();  // fails only for who leads a session already
  if (start_.terminal) {
    if (::ioctl(streams_.input.get(), TIOCSCTTY, 0) < 0) {
      return fail_errno("cannot control the terminal");
    }
    if (::fchown(streams_.input.get(), user_.user, static_cast<gid_t>(-1)) < 0) {
      return fail_errno("cannot give the terminal to user {}", user_.user);
    }
  }
  const std::array<int, 3> descriptors = {
      streams_.input.get(), (start_.terminal ? streams_.input : streams_.output).get(),
      (start_.terminal ? streams_.input : streams_.error).get()};
  for (int target = 0; target < 3; ++target) {
    // A program may open /dev/stdout again, which takes the right to its pipe. Not of /dev/null.
    struct stat status{};
    const int source = descriptors[static_cast<std::size_t>(target)];
    if (::fstat(source, &status) == 0 && S_ISFIFO(status.st_mode) &&
        ::fchown(source, user_.user, user_.group) < 0) {
      return fail_errno("cannot give a stream to user {}", user_.user);
    }
    if (::dup2(source, target) < 0) return fail_errno("cannot set descriptor {}", target);
  }
  return {};
}

Result<void> Child::drop_capabilities() const {
  for (unsigned number = 0; number < 64; ++number) {
    if (::prctl(PR_CAPBSET_READ, number) < 0) break;
    if (!(start_.capabilities >> number & 1) && ::prctl(PR_CAPBSET_DROP, number) < 0) {
      return fail_errno("cannot drop capability {}", number);
    }
  }
  return {};
}

Result<void> Child::become_user() {
  TRY(drop_capabilities());
  if (::setgroups(user_.groups.size(), user_.groups.data()) < 0 ||
      ::setresgid(user_.group, user_.group, user_.group) < 0 ||
      ::setresuid(user_.user, user_.user, user_.user) < 0) {
    return fail_errno("cannot become user {}:{}", user_.user, user_.group);
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> sets{};
  if (::syscall(SYS_capget, &header, sets.data()) < 0)
    return fail_errno("cannot read capabilities");
  for (std::size_t half = 0; half < sets.size(); ++half) {
    // The kernel has taken those of a user who is not root. None is inherited.
    const auto mask = static_cast<std::uint32_t>(start_.capabilities >> (32 * half));
    sets[half].permitted &= mask;
    sets[half].effective = sets[half].permitted;
    sets[half].inheritable = 0;
  }
  if (::syscall(SYS_capset, &header, sets.data()) < 0) return fail_errno("cannot set capabilities");
  if (start_.no_new_privileges && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
    return fail_errno("cannot give up new privileges");
  }
  return {};
}

const char* Child::variable(std::string_view name) const {
  const char* value = nullptr;
  for (const std::string& one : start_.environment) {
    if (one.size() > name.size() && one.starts_with(name) && one[name.size()] == '=') {
      value = one.c_str() + name.size() + 1;
    }
  }
  return value;
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

void Child::execute() {
  if (start_.arguments.empty() || start_.arguments[0].empty()) {
    return say({Failed::Reason::setup, EINVAL, "no program is named"});
  }
  std::vector<std::string> environment = start_.environment;
  if (variable("HOME") == nullptr) environment.push_back("HOME=" + user_.home);
  const std::string& program = start_.arguments[0];
  std::vector<std::string> candidates;
  if (program.contains('/')) {
    candidates.push_back(program);
  } else {
    const char* path = variable("PATH");
    for (const auto folder :
         split(path != nullptr ? path
                               : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
               ':')) {
      candidates.push_back(folder.empty() ? program : std::string(folder) + "/" + program);
    }
  }
  const auto arguments = pointers(start_.arguments), variables = pointers(environment);
  int error = ENOENT;
  for (const std::string& candidate : candidates) {
    ::execve(candidate.c_str(), arguments.data(), variables.data());
    // As a shell does it: one that cannot be run is remembered, and others are tried.
    if (errno != ENOENT && errno != ENOTDIR) error = errno;
    if (error != ENOENT && error != EACCES) break;
  }
  say({error == ENOENT ? Failed::Reason::not_found : Failed::Reason::not_executable,
       static_cast<std::uint32_t>(error),
       fmt::format("cannot run '{}': {}", program,
                   error == ENOENT && !program.contains('/') ? "executable file not found in $PATH"
                                                             : ::strerror(error))});
}

// PID 1 of the container: passes signals on to its child, reaps, and ends as the child does.
[[noreturn]] void Child::reap_as_init(pid_t child) {
  (void)::close_range(0, ~0u, 0);
  sigset_t all;
  ::sigfillset(&all);  // all are blocked
  for (;;) {
    int number = 0;
    if (::sigwait(&all, &number) != 0) continue;
    if (number != SIGCHLD) {
      ::kill(child, number);
      continue;
    }
    int status = 0;
    for (pid_t pid; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      if (pid != child) continue;
      ::_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
    }
  }
}

Result<std::pair<UniqueFd, UniqueFd>> make_report() {
  std::array<int, 2> ends;
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) < 0) {
    return fail_errno("cannot make a socket pair");
  }
  return std::pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

// Children are made in the PID namespace of `container` while one of these lives.
class PidNamespace {
 public:
  static Result<PidNamespace> enter(int container) {
    PidNamespace own;
    if (container < 0) return own;
    own.own_ = TRY(open_file("/proc/self/ns/pid", O_RDONLY));
    if (::setns(container, CLONE_NEWPID) < 0) return fail_errno("the container is not running");
    return own;
  }
  PidNamespace(PidNamespace&&) = default;
  ~PidNamespace() {
    if (own_) (void)::setns(own_.get(), CLONE_NEWPID);  // back to the own one always works
  }

 private:
  PidNamespace() = default;
  UniqueFd own_;
};

}  // namespace

Result<Launched> launch(const Start& start, const Places& places, int cgroup, int container) {
  Launched launched;
  Streams streams;
  if (!start.terminal) {
    if (start.input) {
      std::tie(streams.input, launched.input) = TRY(make_pipe());
      set_nonblocking(launched.input);
    } else {
      streams.input = TRY(open_file("/dev/null", O_RDONLY));
    }
    std::tie(launched.output, streams.output) = TRY(make_pipe());
    std::tie(launched.error, streams.error) = TRY(make_pipe());
    set_nonblocking(launched.output);
    set_nonblocking(launched.error);
  }
  UniqueFd report;
  std::tie(launched.report, report) = TRY(make_report());

  const auto pid_namespace = TRY(PidNamespace::enter(container));
  int pidfd = -1;
  clone_args arguments{};
  arguments.flags = CLONE_PIDFD | (start.container ? kNamespaces : 0);
  arguments.pidfd = reinterpret_cast<std::uint64_t>(&pidfd);
  arguments.exit_signal = SIGCHLD;
  if (cgroup >= 0) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<std::uint64_t>(cgroup);
  }
  const long pid = ::syscall(SYS_clone3, &arguments, sizeof arguments);
  if (pid < 0) return fail_errno("cannot make a process");
  if (pid == 0) Child(start, places, container, std::move(streams), std::move(report)).run();
  launched.pid = static_cast<pid_t>(pid);
  launched.pidfd = UniqueFd(pidfd);
  set_nonblocking(launched.report);
  return launched;
}

Result<Report> receive_report(int descriptor) {
  std::array<char, kReportSize> bytes;
  iovec data{bytes.data(), bytes.size()};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t n = ::recvmsg(descriptor, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0) return fail_errno("no report");
  Report report;
  report.ended = n == 0;
  if (const cmsghdr* head = CMSG_FIRSTHDR(&message);
      head != nullptr && head->cmsg_type == SCM_RIGHTS) {
    int received = -1;
    std::memcpy(&received, CMSG_DATA(head), sizeof received);
    report.terminal = UniqueFd(received);
    set_nonblocking(report.terminal);
  } else if (n > 0) {
    report.failure =
        TRY(protocol::decode_fields<Failed>({bytes.data(), static_cast<std::size_t>(n)}));
  }
  return report;
}

}  // namespace vmm::agent
