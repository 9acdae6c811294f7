#include "src/engine/runtime/channel.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace vmm::engine {

Channel::Channel(EventLoop& loop, UniqueFd socket, Callbacks callbacks)
    : socket_(std::move(socket)),
      callbacks_(std::move(callbacks)),
      watch_(loop, socket_.get(), [this](std::uint32_t events) { turn(events); }) {
  update();
}

void Channel::set_reading(bool on) {
  reading_ = on;
  update();
}

void Channel::send_bytes(const std::string& bytes) {
  if (!open_) return;
  out_ += bytes;
  (void)flush();  // a failure is seen in the next turn
  update();
}

void Channel::update() {
  if (!open_) return watch_.want(0);
  watch_.want((reading_ ? std::uint32_t{EPOLLIN} : 0u) |
              (out_.empty() ? 0u : std::uint32_t{EPOLLOUT}));
}

void Channel::close() {
  open_ = false;
  out_.clear();
  watch_.want(0);
  if (callbacks_.closed) callbacks_.closed();
}

void Channel::turn(std::uint32_t events) {
  const bool had = !out_.empty();
  const bool sent = flush();
  if (!sent) out_.clear();
  if (sent && had && out_.empty() && callbacks_.writable) callbacks_.writable();
  // What a peer said before it went is heard, though it takes nothing any more.
  const bool heard = !sent || (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;
  if (reading_ && heard && !receive()) return close();
  if (!sent && !reading_) return close();
  update();
}

bool Channel::receive() {
  std::array<char, 65536> chunk;
  const ssize_t n = ::recv(socket_.get(), chunk.data(), chunk.size(), MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  reader_.append({chunk.data(), static_cast<std::size_t>(n)});
  for (;;) {
    const auto message = reader_.next();
    if (!message) return false;
    if (!*message) return true;
    callbacks_.message(**message);
  }
}

bool Channel::flush() {
  std::size_t sent = 0;
  while (sent < out_.size()) {
    const ssize_t n =
        ::send(socket_.get(), out_.data() + sent, out_.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) return false;
    if (n < 0) break;
    sent += static_cast<std::size_t>(n);
  }
  out_.erase(0, sent);
  return true;
}

}  // namespace vmm::engine
