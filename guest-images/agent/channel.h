// MessageChannel: a connection that carries messages, both ways.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "src/base/event_loop.h"
#include "src/base/unique_fd.h"
#include "src/base/watch.h"
#include "src/protocol/agent.h"

namespace vmm::agent {

class MessageChannel {
 public:
  using OnMessage = std::function<void(const protocol::agent::Message&)>;

  // `on_closed`: the peer is gone or breaks the protocol; the owner may destroy the channel in it,
  // and nowhere else while one of its callbacks runs.
  MessageChannel(EventLoop& loop, UniqueFd connection, OnMessage on_message,
                 std::function<void()> on_closed);

  template <typename T>
  void send(const T& message) {
    send_bytes(protocol::agent::encode(message));
  }

 private:
  void turn();
  void send_bytes(const std::string& bytes);
  bool receive();
  bool answer();
  bool flush();

  UniqueFd connection_;
  const OnMessage on_message_;
  const std::function<void()> on_closed_;
  Watch watch_;
  protocol::agent::MessageReader reader_;
  std::string out_;
};

}  // namespace vmm::agent
