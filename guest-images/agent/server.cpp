#include "guest-images/agent/server.h"

#include <linux/vm_sockets.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <utility>

#include "guest-images/agent/machine.h"

namespace vmm::agent {
namespace {

using namespace protocol::agent;

// Bounds on what the other side can have the agent hold. Of greetings the oldest goes: one that
// never says what it wants is of no use to anybody.
constexpr std::size_t kMaxGreetings = 64;
constexpr std::size_t kMaxSessions = 512;
constexpr std::size_t kMaxProcesses = 256;

// Containers share the machine's vsock addresses; what they connect is not the host's.
bool is_from_host(int connection) {
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  if (::getpeername(connection, reinterpret_cast<sockaddr*>(&peer), &size) < 0) return false;
  if (peer.ss_family != AF_VSOCK) return true;
  return reinterpret_cast<const sockaddr_vm&>(peer).svm_cid == VMADDR_CID_HOST;
}

// Whole, or the connection is of no use: a header fits into any socket's buffer.
bool send_header(int connection, const Header& header) {
  const HeaderBytes bytes = encode(header);
  return ::send(connection, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(bytes.size());
}

Failed as_failure(const Error& error) {
  return {Failed::Reason::setup, static_cast<std::uint32_t>(error.code()), error.message()};
}

}  // namespace

Server::Server(EventLoop& loop, UniqueFd listener, Places places, std::optional<Cgroup> cgroup,
               FreezePatience patience)
    : loop_(loop),
      listener_(std::move(listener)),
      places_(std::move(places)),
      cgroup_(std::move(cgroup)),
      patience_(patience),
      acceptor_(loop, listener_.get(),
                [this](UniqueFd connection) { greet(std::move(connection)); }) {
  (void)acceptor_.start();  // fails for want of memory only, at the start of a machine
}

// All are killed before one is waited for: the first process of a container does not end before the
// others, which are children of the agent, are reaped.
Server::~Server() {
  for (const auto& [_, process] : processes_) (void)process->signal(SIGKILL);  // or it has ended
  while (::waitpid(-1, nullptr, 0) > 0 || errno == EINTR) {
  }
  processes_.clear();  // they speak of sessions
}

void Server::greet(UniqueFd connection) {
  if (!is_from_host(connection.get())) return;
  if (greetings_.size() == kMaxGreetings) greetings_.pop_front();
  const auto greeting = greetings_.emplace(greetings_.end());
  greeting->connection = std::move(connection);
  greeting->watch.emplace(loop_, greeting->connection.get(),
                          [this, greeting](std::uint32_t) { read_header(greeting); });
  greeting->watch->want(EPOLLIN);
}

void Server::read_header(Greetings::iterator greeting) {
  const auto left = std::span(greeting->bytes).subspan(greeting->received);
  const ssize_t n = ::recv(greeting->connection.get(), left.data(), left.size(), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n > 0) greeting->received += static_cast<std::size_t>(n);
  if (n > 0 && greeting->received < kHeaderSize) return;
  const auto header = decode_header(greeting->bytes);
  greeting->watch.reset();
  UniqueFd connection = std::move(greeting->connection);
  greetings_.erase(greeting);
  if (n <= 0) return;
  if (header) return take(*header, std::move(connection));
  // Says which version is spoken here.
  (void)send_header(connection.get(), {Kind::refused, {}});
}

void Server::take(const Header& header, UniqueFd connection) {
  const bool is_session = header.kind == Kind::machine || header.kind == Kind::control;
  const auto process = processes_.find(header.process);
  const bool known = is_session
                         ? sessions_.size() < kMaxSessions
                         : process != processes_.end() && process->second->has_stream(header.kind);
  const Header answer{known ? header.kind : Kind::refused, header.process};
  if (!send_header(connection.get(), answer) || !known) return;
  if (!is_session) return process->second->attach(header.kind, std::move(connection));
  open_session(header.kind == Kind::control ? std::optional(header.process) : std::nullopt,
               std::move(connection));
}

void Server::open_session(std::optional<ProcessId> process, UniqueFd connection) {
  const auto session = sessions_.emplace(sessions_.end());
  session->process = process;
  session->channel = std::make_unique<MessageChannel>(
      loop_, std::move(connection),
      [this, session](const Message& message) {
        if (session->process) {
          answer_control(*session, message);
        } else {
          answer_machine(*session->channel, message);
        }
      },
      [this, session] { close_session(session); });
}

void Server::close_session(Sessions::iterator session) {
  if (session->process) {
    if (const auto it = processes_.find(*session->process); it != processes_.end()) {
      // Nobody has a question about what was told, unless another session does.
      it->second->unfollow(session->channel.get());
      // Work with files is for who asked; a container that it froze is not left so.
      if (it->second->is_file_task() && !it->second->is_followed()) {
        (void)it->second->signal(SIGKILL);  // or it has ended
      }
      if (it->second->is_told() && it->second->is_over()) processes_.erase(it);
    }
  }
  // The channel is in its callback: it goes when that has returned.
  loop_.post([this, session] { sessions_.erase(session); });
}

Result<Process*> Server::find(const ProcessId& id) {
  const auto it = processes_.find(id);
  if (it == processes_.end()) return fail("no such process");
  return it->second.get();
}

Process* Server::first_process() {
  for (const auto& [_, process] : processes_) {
    if (process->is_first() && !process->is_over()) return process.get();
  }
  return nullptr;
}

// Of what has ended and nobody asked about, the agent remembers as much as it has room for.
Result<void> Server::make_room() {
  if (processes_.size() < kMaxProcesses) return {};
  const auto over = std::ranges::find_if(processes_, [](const auto& entry) {
    return entry.second->is_over() && !entry.second->is_followed();
  });
  if (over == processes_.end()) return fail("{} processes run already", processes_.size());
  processes_.erase(over);
  return {};
}

Result<void> Server::start(Session& session, const Message& message) {
  auto request = TRY(decode<Start>(message));
  if (processes_.contains(*session.process)) return fail("the process was started before");
  TRY(make_room());
  if (request.files) return start_file_task(session, std::move(request));
  Process* const first = first_process();
  const bool is_first = request.container.has_value();
  if (is_first && first != nullptr) return fail("the container is running already");
  if (!is_first && first == nullptr) return fail("the container is not running");
  if (is_first) {
    const Container& container = *request.container;
    TRY(write_container_file(places_, "hostname", container.host_name + "\n"));
    if (cgroup_) {
      TRY(cgroup_->set_limits(container));
    } else if (container.memory_limit || container.swap_limit || container.process_limit ||
               container.cpu_limit) {
      return fail("limits need cgroup v2, which is not there");
    }
  }
  auto process = std::make_unique<Process>(loop_, std::move(request));
  TRY(process->start(places_, cgroup_ ? &*cgroup_ : nullptr, is_first ? -1 : first->pidfd()));
  process->follow(session.channel.get());
  processes_.emplace(*session.process, std::move(process));
  return {};
}

// Outside of the container: its control group, its limits and its processes are not for it.
Result<void> Server::start_file_task(Session& session, Start request) {
  request.container.reset();
  request.terminal.reset();
  const auto id = *session.process;
  auto process = std::make_unique<Process>(loop_, std::move(request));
  Process& task = *process;
  processes_.emplace(id, std::move(process));
  const auto started = [&]() -> Result<void> {
    if (task.freezes()) TRY(set_frozen());
    return task.start(places_, nullptr, -1);
  }();
  if (!started) {
    processes_.erase(id);
    (void)set_frozen();  // the error is told
    return started;
  }
  task.follow(session.channel.get());
  if (task.freezes()) expect_progress(id);
  return {};
}

// Who asked for the work may stand still itself, and hold its connection: the container goes on
// then, and the work, of files that do not change, has failed. A disk that is slow is waited for.
void Server::expect_progress(const ProcessId& id) {
  const auto moved = processes_.at(id)->moved();
  loop_.add_timer(EventLoop::Clock::now() + patience_.without_progress, [this, id, moved] {
    const auto it = processes_.find(id);
    if (it == processes_.end() || !it->second->freezes()) return;
    if (it->second->moved() != moved || !it->second->waits_for_client()) return expect_progress(id);
    it->second->give_up(
        fmt::format("nobody took the files of the container for {:g} s, while it stood still for "
                    "them: it goes on",
                    std::chrono::duration<double>(patience_.without_progress).count()));
  });
}

Result<void> Server::set_frozen() {
  const bool frozen = frozen_ || std::ranges::any_of(processes_, [](const auto& entry) {
                        return entry.second->freezes();
                      });
  if (cgroup_) return cgroup_->freeze(frozen, patience_.to_stop);
  return frozen ? fail("freezing needs cgroup v2, which is not there") : Result<void>();
}

Result<void> Server::control(Session& session, const Message& message) {
  switch (message.type) {
    case Start::kType:
      return start(session, message);
    case Follow::kType:
      TRY(find(*session.process))->follow(session.channel.get());
      return {};
    case Resize::kType: {
      const auto request = TRY(decode<Resize>(message));
      return TRY(find(*session.process))->resize(request.size);
    }
    case Signal::kType: {
      const auto request = TRY(decode<protocol::agent::Signal>(message));
      return TRY(find(*session.process))->signal(request.number);
    }
    default:
      return fail("unknown message {}", message.type);
  }
}

// Only failures of a start, and of what is not understood, are answered: a signal may come too
// late.
void Server::answer_control(Session& session, const Message& message) {
  const auto done = control(session, message);
  const bool may_fail =
      message.type == protocol::agent::Signal::kType || message.type == Resize::kType;
  if (!done && !may_fail) session.channel->send(as_failure(done.error()));
}

void Server::send_usage(MessageChannel& channel, bool processes) {
  Usage usage = cgroup_ ? cgroup_->usage() : Usage();
  if (processes && cgroup_) usage.list = cgroup_->processes();
  channel.send(usage);
}

Result<void> Server::machine(const Message& message) {
  switch (message.type) {
    case Configure::kType: {
      const auto request = TRY(decode<Configure>(message));
      TRY(configure(request, places_));
      // A container that runs goes on as a copy of another one.
      const auto* first = first_process();
      if (first == nullptr || request.host_name.empty()) return {};
      return set_host_name(first->pidfd(), request.host_name, places_);
    }
    case MountRoot::kType:
      return mount_root(TRY(decode<MountRoot>(message)), places_);
    case MountShare::kType:
      return mount_share(TRY(decode<MountShare>(message)));
    case Freeze::kType: {
      const auto request = TRY(decode<Freeze>(message));
      const bool before = std::exchange(frozen_, request.frozen);
      auto done = set_frozen();
      if (!done) {
        frozen_ = before;
        (void)set_frozen();  // the error is told
      }
      return done;
    }
    case Sync::kType:
      return sync_files(places_);
    case PowerOff::kType:
      return power_off(TRY(decode<PowerOff>(message)), places_);
    default:
      return fail("unknown message {}", message.type);
  }
}

void Server::answer_machine(MessageChannel& channel, const Message& message) {
  if (message.type == Hello::kType) return channel.send(welcome());
  if (message.type == AskUsage::kType) {
    const auto request = decode<AskUsage>(message);
    return send_usage(channel, request && request->processes);
  }
  if (const auto done = machine(message); !done) return channel.send(as_failure(done.error()));
  channel.send(Done{});
}

void Server::reap() {
  int status = 0;
  for (pid_t pid; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
    const auto ended = std::ranges::find_if(processes_, [&](const auto& entry) {
      return entry.second->pid() == pid && !entry.second->is_over();
    });
    if (ended == processes_.end()) continue;
    const bool froze = ended->second->freezes();
    ended->second->ended(status);
    if (froze) (void)set_frozen();  // fails as little as before
  }
}

}  // namespace vmm::agent
