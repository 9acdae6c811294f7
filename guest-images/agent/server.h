// Server: takes connections, reads what each is about, and hands it to its process or the machine.
#pragma once

#include <chrono>
#include <list>
#include <map>
#include <memory>
#include <optional>

#include "guest-images/agent/cgroup.h"
#include "guest-images/agent/channel.h"
#include "guest-images/agent/container.h"
#include "guest-images/agent/process.h"
#include "src/base/acceptor.h"
#include "src/base/event_loop.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/base/watch.h"

namespace vmm::agent {

// How long a container that is to stand still may take to, and how long it does so for work whose
// bytes nobody takes.
struct FreezePatience {
  std::chrono::milliseconds to_stop{5'000};
  std::chrono::milliseconds without_progress{15'000};
};

class Server {
 public:
  // `listener`: non-blocking. On vsock, only the host is answered.
  Server(EventLoop& loop, UniqueFd listener, Places places, std::optional<Cgroup> cgroup,
         FreezePatience patience);
  ~Server();

  // Some child has ended; also those that are nobody's any more.
  void reap();

 private:
  using ProcessId = protocol::agent::ProcessId;
  using Message = protocol::agent::Message;

  // A connection whose header is not complete yet.
  struct Greeting {
    UniqueFd connection;
    protocol::agent::HeaderBytes bytes{};
    std::size_t received = 0;
    std::optional<Watch> watch;
  };
  // A connection of messages: of a process, or the machine.
  struct Session {
    std::optional<ProcessId> process;
    std::unique_ptr<MessageChannel> channel;
  };
  using Greetings = std::list<Greeting>;
  using Sessions = std::list<Session>;

  void greet(UniqueFd connection);
  void read_header(Greetings::iterator greeting);
  // Whether the connection is taken; it is echoed then.
  void take(const protocol::agent::Header& header, UniqueFd connection);
  void open_session(std::optional<ProcessId> process, UniqueFd connection);
  void close_session(Sessions::iterator session);
  void answer_control(Session& session, const Message& message);
  Result<void> control(Session& session, const Message& message);
  void answer_machine(MessageChannel& channel, const Message& message);
  Result<void> machine(const Message& message);
  Result<void> start(Session& session, const Message& message);
  Result<void> start_file_task(Session& session, protocol::agent::Start request);
  Result<void> set_frozen();
  void expect_progress(const ProcessId& id);
  Result<Process*> find(const ProcessId& id);
  Process* first_process();
  Result<void> make_room();
  void send_usage(MessageChannel& channel, bool processes);

  EventLoop& loop_;
  UniqueFd listener_;
  const Places places_;
  const std::optional<Cgroup> cgroup_;
  const FreezePatience patience_;
  Acceptor acceptor_;
  Greetings greetings_;
  Sessions sessions_;
  std::map<ProcessId, std::unique_ptr<Process>> processes_;
  bool frozen_ = false;  // by the host; work with files freezes by itself
};

}  // namespace vmm::agent
