#include "guest-images/agent/channel.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

namespace vmm::agent {

MessageChannel::MessageChannel(EventLoop& loop, UniqueFd connection, OnMessage on_message,
                               std::function<void()> on_closed)
    : connection_(std::move(connection)),
      on_message_(std::move(on_message)),
      on_closed_(std::move(on_closed)),
      watch_(loop, connection_.get(), [this](std::uint32_t) { turn(); }) {
  watch_.want(EPOLLIN);
}

void MessageChannel::send_bytes(const std::string& bytes) {
  out_ += bytes;
  // A failure is seen by the next receive().
  if (flush()) watch_.want(out_.empty() ? EPOLLIN : EPOLLOUT);
}

// While answers wait for the peer, no more requests are taken, also of those that have come.
void MessageChannel::turn() {
  if (!flush() || !answer() || (out_.empty() && !receive())) {
    watch_.want(0);
    return on_closed_();
  }
  watch_.want(out_.empty() ? EPOLLIN : EPOLLOUT);
}

bool MessageChannel::receive() {
  std::array<char, 16384> chunk;
  const ssize_t n = ::recv(connection_.get(), chunk.data(), chunk.size(), MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  reader_.append({chunk.data(), static_cast<std::size_t>(n)});
  return answer();
}

bool MessageChannel::answer() {
  while (out_.empty()) {
    const auto message = reader_.next();
    if (!message) return false;
    if (!*message) break;
    on_message_(**message);
  }
  return true;
}

bool MessageChannel::flush() {
  while (!out_.empty()) {
    const ssize_t n =
        ::send(connection_.get(), out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    out_.erase(0, static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace vmm::agent
