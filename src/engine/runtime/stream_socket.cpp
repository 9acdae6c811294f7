#include "src/engine/runtime/stream_socket.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace vmm::engine {

StreamSocket::StreamSocket(EventLoop& loop, UniqueFd socket, Callbacks callbacks)
    : socket_(std::move(socket)),
      callbacks_(std::move(callbacks)),
      watch_(loop, socket_.get(), [this](std::uint32_t events) { turn(events); }) {
  update();
}

void StreamSocket::set_reading(bool on) {
  reading_ = on;
  update();
}

void StreamSocket::update() {
  watch_.want((reading_ && !ended_ ? std::uint32_t{EPOLLIN} : 0u) |
              (out_.empty() ? 0u : std::uint32_t{EPOLLOUT}));
}

void StreamSocket::write(std::string_view bytes) {
  if (ending_ || broken_) return;
  out_ += bytes;
  flush();
  update();
}

void StreamSocket::end_writing() {
  if (std::exchange(ending_, true)) return;
  flush();
  update();
}

void StreamSocket::flush() {
  std::size_t sent = 0;
  while (sent < out_.size()) {
    const ssize_t n =
        ::send(socket_.get(), out_.data() + sent, out_.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) {
      broken_ = true;
      sent = out_.size();
    }
    if (n < 0) break;
    sent += static_cast<std::size_t>(n);
  }
  out_.erase(0, sent);
  if (out_.empty() && ending_ && !broken_) {
    broken_ = true;
    (void)::shutdown(socket_.get(), SHUT_WR);
  }
}

void StreamSocket::turn(std::uint32_t events) {
  if (!out_.empty()) {
    flush();
    if (out_.empty() && callbacks_.written) callbacks_.written();
  }
  if (reading_ && !ended_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    std::array<char, 65536> buffer;
    const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n > 0) {
      callbacks_.data({buffer.data(), static_cast<std::size_t>(n)});
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
      ended_ = true;
    }
    if (ended_) {
      update();
      return callbacks_.ended();  // may destroy nothing of this at once
    }
  }
  update();
}

}  // namespace vmm::engine
