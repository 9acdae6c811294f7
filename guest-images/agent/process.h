// Process: one process of the container and the connections that belong to it.
//
//   starting --report ends--> running --it ends--> ended --outputs are drained--> told
//       \--report has a failure--> failed
//
// It outlives its control connection: who comes later with Follow hears the same. What runs when it
// is destroyed runs on: the server ends processes.
#pragma once

#include <memory>
#include <optional>

#include "guest-images/agent/cgroup.h"
#include "guest-images/agent/channel.h"
#include "guest-images/agent/launch.h"
#include "guest-images/agent/streams.h"

namespace vmm::agent {

class Process {
 public:
  Process(EventLoop& loop, protocol::agent::Start start);

  // `cgroup` may be null.
  Result<void> start(const Places& places, const Cgroup* cgroup, int container);

  // Takes a control connection over; says what there is to say.
  void follow(MessageChannel* control);
  void unfollow(const MessageChannel* control);
  bool is_followed() const { return control_ != nullptr; }
  // Whether the process has such a stream; if not, the connection is left alone.
  bool has_stream(protocol::agent::Kind kind) const;
  void attach(protocol::agent::Kind kind, UniqueFd connection);
  Result<void> resize(const protocol::agent::TerminalSize& size);
  Result<void> signal(int number);
  void ended(int status);  // of waitpid(2)
  // Kills it; `why` is told in place of its end.
  void give_up(std::string why);

  pid_t pid() const { return launched_.pid; }
  int pidfd() const { return launched_.pidfd.get(); }
  bool is_first() const { return start_.container.has_value(); }
  bool is_file_task() const { return start_.files.has_value(); }
  // Whether the container's processes stand still as long as it runs.
  bool freezes() const { return start_.files && start_.files->freeze && !is_over(); }
  // Bytes of its streams that somebody took.
  std::uint64_t moved() const;
  // Whether it is for its client to go on: there is output that nobody takes, or input to be sent.
  bool waits_for_client() const;
  bool is_over() const { return status_.has_value(); }
  // All was said, to whom follows or followed it last.
  bool is_told() const { return told_; }

 private:
  void read_report();
  void take_terminal(UniqueFd terminal);
  void tell();

  EventLoop& loop_;
  const protocol::agent::Start start_;
  const Cgroup* cgroup_ = nullptr;
  Launched launched_;
  UniqueFd terminal_;
  std::optional<Watch> report_watch_;
  std::optional<InputPump> input_;
  std::optional<OutputPump> output_, error_;
  MessageChannel* control_ = nullptr;
  bool reported_ = false;  // the report has ended
  std::optional<protocol::agent::Failed> failure_;
  std::uint64_t out_of_memory_before_ = 0;
  std::optional<protocol::agent::Exited> status_;
  bool told_start_ = false, told_ = false;  // on the control connection of now
};

}  // namespace vmm::agent
