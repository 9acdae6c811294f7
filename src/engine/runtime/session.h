// Session: one connection to a supervisor.
#pragma once

#include <functional>
#include <string_view>

#include "src/engine/runtime/channel.h"
#include "src/engine/runtime/wire.h"

namespace vmm::engine {

class Session {
 public:
  struct Owner {
    std::function<void(Session&, const protocol::agent::Message&)> message;
    std::function<void(Session&)> closed;
    std::function<void()> writable;
  };
  Session(EventLoop& loop, UniqueFd socket, Owner owner);

  template <typename T>
  void send(const T& message) {
    channel_.send(message);
  }
  void attach(const wire::Attach& request) { attached_ = request; }
  const wire::Attach& attached() const { return attached_; }
  // A piece of output, to whom it was promised.
  void output(wire::Stream stream, std::string_view bytes);
  bool is_slow() const { return channel_.pending() > kMuch; }
  bool is_idle() const { return channel_.pending() == 0 || !channel_.is_open(); }
  void set_reading(bool on) { channel_.set_reading(on); }

 private:
  static constexpr std::size_t kMuch = 256u << 10;

  Owner owner_;
  wire::Attach attached_;
  Channel channel_;
};

}  // namespace vmm::engine
