// Channel: messages over a socket in an event loop.
//
//   Channel channel(loop, std::move(socket), {.message = ..., .closed = ..., .writable = ...});
//   channel.send(agent::Hello{});
//
// It may be destroyed in none of its callbacks: post that to the loop.
#pragma once

#include <functional>
#include <string>

#include "src/base/unique_fd.h"
#include "src/base/watch.h"
#include "src/protocol/agent.h"

namespace vmm::engine {

class Channel {
 public:
  struct Callbacks {
    std::function<void(const protocol::agent::Message&)> message;
    std::function<void()> closed;    // once: by the peer, or for what it said
    std::function<void()> writable;  // what was to be sent is sent
  };
  Channel(EventLoop& loop, UniqueFd socket, Callbacks callbacks);

  template <typename T>
  void send(const T& message) {
    send_bytes(protocol::agent::encode(message));
  }
  // Bytes that the peer has not taken.
  std::size_t pending() const { return out_.size(); }
  bool is_open() const { return open_; }
  void set_reading(bool on);

 private:
  void send_bytes(const std::string& bytes);
  void turn(std::uint32_t events);
  bool receive();
  bool flush();
  void update();
  void close();

  UniqueFd socket_;
  Callbacks callbacks_;
  protocol::agent::MessageReader reader_;
  std::string out_;
  bool open_ = true, reading_ = true;
  Watch watch_;
};

}  // namespace vmm::engine
