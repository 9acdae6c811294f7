#include "guest-images/agent/streams.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace vmm::agent {
namespace {

// A pipe holds no more, unless a process with privileges made it larger.
constexpr std::size_t kLargestPipe = 1u << 20;
// Then the others have their turn.
constexpr int kRounds = 4;
constexpr std::uint32_t kNothing = 0;  // of epoll's events

bool again() { return errno == EAGAIN || errno == EINTR; }

}  // namespace

OutputPump::OutputPump(EventLoop& loop, UniqueFd source, protocol::agent::LostOutput lost,
                       std::function<void()> drained)
    : loop_(loop), source_(std::move(source)), lost_(lost), on_drained_(std::move(drained)) {
  source_watch_.emplace(loop_, source_.get(), [this](std::uint32_t) { turn(); });
}

void OutputPump::attach(UniqueFd connection) {
  if (drained_) return;  // closed here: the end is all that comes
  connection_watch_.reset();
  connection_ = std::move(connection);
  connection_watch_.emplace(loop_, connection_.get(), [this](std::uint32_t) { turn(); });
  dropping_ = false;
  turn();
}

void OutputPump::finish() {
  left_ = kLargestPipe;
  turn();
}

void OutputPump::turn() {
  for (int round = 0; left_ || round < kRounds; ++round) {
    if (begin_ == end_ && !fill()) break;
    if (!flush()) break;
  }
  update();
}

bool OutputPump::is_untaken() const {
  if (begin_ < end_) return true;
  if (!source_ || connection_ || dropping_) return false;
  pollfd bytes{source_.get(), POLLIN, 0};
  return ::poll(&bytes, 1, 0) > 0 && (bytes.revents & POLLIN) != 0;
}

// Whether there is something in the buffer now.
bool OutputPump::fill() {
  if (!source_ || (!connection_ && !dropping_ && !left_)) return false;
  const ssize_t n = left_ == 0 ? 0 : ::read(source_.get(), buffer_.data(), buffer_.size());
  if (n > 0) {
    begin_ = 0;
    end_ = static_cast<std::size_t>(n);
    if (left_) *left_ -= std::min(*left_, end_);
    return true;
  }
  if (n < 0 && again() && !left_) return false;
  // The end: of the pipe, of the terminal (EIO), or of what the process has left.
  source_watch_.reset();
  source_.reset();
  return false;
}

// Whether the buffer is empty now.
bool OutputPump::flush() {
  while (begin_ < end_ && !dropping_) {
    if (!connection_) return false;
    const ssize_t n = ::send(connection_.get(), buffer_.data() + begin_, end_ - begin_,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      begin_ += static_cast<std::size_t>(n);
      moved_ += static_cast<std::size_t>(n);
    } else if (again()) {
      return false;
    } else {
      connection_watch_.reset();
      connection_.reset();
      dropping_ = lost_ == protocol::agent::LostOutput::is_dropped;
    }
  }
  begin_ = end_ = 0;
  return true;
}

void OutputPump::update() {
  if (connection_watch_) connection_watch_->want(begin_ < end_ ? EPOLLOUT : kNothing);
  if (source_watch_) {
    source_watch_->want(begin_ == end_ && (connection_ || dropping_) ? EPOLLIN : kNothing);
  }
  if (source_ || begin_ < end_ || drained_) return;
  drained_ = true;
  connection_watch_.reset();
  // The descriptor of a terminal's input may hold the connection open.
  if (connection_) ::shutdown(connection_.get(), SHUT_WR);
  connection_.reset();
  on_drained_();
}

InputPump::InputPump(EventLoop& loop, UniqueFd target, AtEnd at_end)
    : loop_(loop), target_(std::move(target)), at_end_(at_end) {
  target_watch_.emplace(loop_, target_.get(), [this](std::uint32_t) { turn(); });
}

void InputPump::attach(UniqueFd connection) {
  if (!target_) return;  // closed here: nobody reads it
  connection_watch_.reset();
  connection_ = std::move(connection);
  connection_watch_.emplace(loop_, connection_.get(), [this](std::uint32_t) { turn(); });
  turn();
}

void InputPump::finish() {
  target_watch_.reset();
  target_.reset();
  connection_watch_.reset();
  connection_.reset();
}

void InputPump::turn() {
  for (int round = 0; round < kRounds && target_; ++round) {
    if (begin_ == end_) {
      if (!connection_) break;
      const ssize_t n = ::recv(connection_.get(), buffer_.data(), buffer_.size(), MSG_DONTWAIT);
      if (n < 0 && again()) break;
      if (n <= 0) {
        connection_watch_.reset();
        connection_.reset();
        // What broke off may be continued; only an orderly end is one.
        if (n == 0 && at_end_ == AtEnd::ends) return finish();
        break;
      }
      begin_ = 0;
      end_ = static_cast<std::size_t>(n);
    }
    const ssize_t n = ::write(target_.get(), buffer_.data() + begin_, end_ - begin_);
    if (n < 0 && again()) break;
    if (n < 0) return finish();  // nobody reads it any more
    begin_ += static_cast<std::size_t>(n);
    moved_ += static_cast<std::size_t>(n);
  }
  update();
}

void InputPump::update() {
  if (connection_watch_) connection_watch_->want(begin_ == end_ ? EPOLLIN : kNothing);
  if (target_watch_) target_watch_->want(begin_ < end_ ? EPOLLOUT : kNothing);
}

}  // namespace vmm::agent
