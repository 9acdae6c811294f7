#include "src/base/acceptor.h"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

namespace vmm {
namespace {

// Connections, until others of the loop have their turn. Owners hold some 64 that have said nothing
// yet, and drop the oldest for another: those that come at once are heard before.
constexpr int kBatch = 16;

}  // namespace

bool is_left_waiting(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

Result<void> Acceptor::start() {
  if (watched_ || pause_) return {};
  TRY(loop_.watch(listener_, EPOLLIN, [this](std::uint32_t) { accept(); }));
  watched_ = true;
  return {};
}

void Acceptor::stop() {
  if (std::exchange(watched_, false)) loop_.forget(listener_);
  if (pause_) loop_.cancel_timer(*std::exchange(pause_, std::nullopt));
}

void Acceptor::accept() {
  for (int i = 0; i < kBatch && watched_; ++i) {
    UniqueFd connection(::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection) {
      if (is_left_waiting(errno)) pause();
      return;
    }
    take_(std::move(connection));
  }
}

void Acceptor::pause() {
  stop();
  pause_ = loop_.add_timer(EventLoop::Clock::now() + kPause, [this] {
    pause_.reset();
    if (!start()) pause();
  });
}

}  // namespace vmm
