// AgentProcess: one process that the agent of a container's machine runs: the container's first, or
// one beside it. Its start, its streams, its end.
//
//   AgentProcess process(loop, directory, {.started = ..., .output = ..., .exited = ...});
//   process.start(request);
//
// `exited` comes after the last byte of output. No callback may destroy it: post that.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "src/engine/runtime/agent_link.h"
#include "src/engine/runtime/channel.h"
#include "src/engine/runtime/stream_socket.h"
#include "src/engine/runtime/wire.h"

namespace vmm::engine {

class AgentProcess {
 public:
  struct Callbacks {
    std::function<void()> started;  // its streams are connected
    std::function<void(const protocol::agent::Failed&)> failed;
    std::function<void(wire::Stream, std::string_view)> output;
    std::function<void()> input_taken;  // there is room for more
    std::function<void(const protocol::agent::Exited&)> exited;
    std::function<void()> lost;  // the connection broke: the machine ended
  };
  AgentProcess(EventLoop& loop, std::string directory, const protocol::agent::ProcessId& id,
               Callbacks callbacks);
  ~AgentProcess();

  void start(protocol::agent::Start request);
  // One that runs since it was started by `request`.
  void follow(protocol::agent::Start request);
  // Of a process with input; bytes wait until it is connected.
  void write_input(std::string_view bytes);
  void end_input();
  std::size_t input_pending() const;
  void resize(const wire::TerminalSize& size);
  void signal(int number);
  void set_output_reading(bool on);

 private:
  void open_control(std::function<void()> ask);
  void open_streams();
  void open_stream(protocol::agent::Kind kind);
  void take_stream(protocol::agent::Kind kind, Result<UniqueFd> socket);
  void take_message(const protocol::agent::Message& message);
  void check_end();
  void lose();
  void expect_end();

  EventLoop& loop_;
  const std::string directory_;
  Callbacks callbacks_;
  const protocol::agent::ProcessId id_;
  protocol::agent::Start request_;
  std::vector<std::unique_ptr<AgentLink>> links_;
  std::unique_ptr<Channel> control_;
  std::unique_ptr<StreamSocket> input_, output_, error_;  // output_ is a terminal's input too
  std::size_t opening_ = 0;
  std::string early_input_;
  bool input_ended_ = false, reading_ = true, over_ = false, lost_ = false;
  std::optional<protocol::agent::Exited> exited_;
  std::string stream_error_;
  std::optional<std::uint64_t> drain_timer_;
};

}  // namespace vmm::engine
