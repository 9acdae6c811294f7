// Acceptor: hands the connections that come to a listening socket to its owner.
//
//   Acceptor acceptor(loop, listener.fd(), [this](UniqueFd connection) { ... });
//   TRY(acceptor.start());
//
// While this process, or the host, has no descriptor left for a connection, it waits in the
// socket's backlog, and the socket can be read all the time: it is looked at again after a pause
// only, or the loop would do nothing else.
#pragma once

#include <chrono>
#include <functional>
#include <optional>

#include "src/base/event_loop.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm {

// Whether accept(2) left the connection where it was, for want of descriptors or memory.
bool is_left_waiting(int error);

// On its loop's thread, all of it.
class Acceptor {
 public:
  // Of a connection that is close-on-exec and non-blocking. May call stop(), not end this.
  using Take = std::function<void(UniqueFd connection)>;
  static constexpr std::chrono::milliseconds kPause{100};

  // `listener` is non-blocking, and open as long as this lives.
  Acceptor(EventLoop& loop, int listener, Take take)
      : loop_(loop), listener_(listener), take_(std::move(take)) {}
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;
  ~Acceptor() { stop(); }

  // Connections are taken from now on; until stop().
  Result<void> start();
  void stop();

 private:
  void accept();
  void pause();

  EventLoop& loop_;
  const int listener_;
  const Take take_;
  bool watched_ = false;
  std::optional<std::uint64_t> pause_;  // its timer
};

}  // namespace vmm
