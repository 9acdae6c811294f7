#include "devices/virtio/vsock/connection.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>

#include "devices/virtio/queue.h"

namespace vmm::virtio::vsock {
namespace {

// The guest is told when this much of its credit came back, if no other packet said so.
constexpr std::uint32_t kTellAfter = Connection::kBufferSize / 4;
constexpr std::size_t kMostBuffers = 64;

}  // namespace

Connection::Connection(ConnectionKey key, std::uint64_t guest_cid, UniqueFd socket, Origin origin)
    : key_(key),
      guest_cid_(guest_cid),
      socket_(std::move(socket)),
      state_(origin == Origin::host ? State::requested : State::open),
      request_due_(origin == Origin::host),
      response_due_(origin == Origin::guest) {}

void Connection::reset() {
  if (finished_) return;
  reset_due_ = true;
  waiting_ = {};
  waiting_done_ = 0;
}

void Connection::take(const PacketHeader& header, std::span<const iovec> payload) {
  if (finished_ || reset_due_) {
    if (header.operation == Operation::reset) finished_ = true;
    return;
  }
  take_credit(header);
  switch (header.operation) {
    case Operation::response:
      return take_response();
    case Operation::data:
      return take_data(header.length, payload);
    case Operation::shutdown:
      return take_shutdown(header.flags);
    case Operation::credit_update:
      return;
    case Operation::credit_request:
      credit_update_due_ = true;
      return;
    case Operation::reset:
      flush();  // what was sent before may still be taken
      finished_ = true;
      return;
    case Operation::request:
      break;
  }
  reset();
}

void Connection::take_credit(const PacketHeader& header) {
  guest_buffer_ = header.buffer_size;
  guest_forwarded_ = header.forwarded;
  if (credit() != 0) credit_asked_ = false;
}

void Connection::take_response() {
  if (state_ != State::requested) return reset();
  state_ = State::open;
  const std::string answer = fmt::format("OK {}\n", key_.host_port);
  // The first bytes into an empty socket; less than all means that the host is gone.
  if (::send(fd(), answer.data(), answer.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(answer.size())) {
    reset();
  }
}

void Connection::take_data(std::uint32_t length, std::span<const iovec> payload) {
  const std::uint32_t used = received_ - forwarded_;
  if (state_ != State::open || !guest_sends_ || length > kBufferSize - used) return reset();
  received_ += length;
  write_out(payload);
}

void Connection::take_shutdown(std::uint32_t flags) {
  if (state_ != State::open) return reset();
  if ((flags & kShutdownReceive) != 0 && std::exchange(guest_receives_, false)) {
    (void)::shutdown(fd(), SHUT_RD);  // its other end may be gone already
  }
  if ((flags & kShutdownSend) != 0) guest_sends_ = false;
  after_flush();
}

void Connection::write_out(std::span<const iovec> payload) {
  std::size_t done = 0;
  if (waiting_size() == 0) {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(payload.data());
    message.msg_iovlen = payload.size();
    ssize_t n;
    do {
      n = ::sendmsg(fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN) return reset();
    done = n < 0 ? 0 : static_cast<std::size_t>(n);
    forward(done);
  }
  const std::size_t left = total_size(payload) - done;
  if (left == 0) return;
  if (waiting_done_ != 0) {
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(waiting_done_));
    waiting_done_ = 0;
  }
  const std::size_t before = waiting_.size();
  waiting_.resize(before + left);
  (void)copy_from_buffers(payload, done, std::span(waiting_).subspan(before));
}

void Connection::forward(std::size_t bytes) {
  forwarded_ += static_cast<std::uint32_t>(bytes);
  if (forwarded_ - forwarded_told_ >= kTellAfter) credit_update_due_ = true;
}

void Connection::flush() {
  while (waiting_size() != 0) {
    const ssize_t n =
        ::send(fd(), waiting_.data() + waiting_done_, waiting_size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) return reset();
    waiting_done_ += static_cast<std::size_t>(n);
    forward(static_cast<std::size_t>(n));
  }
  waiting_ = {};
  waiting_done_ = 0;
}

// The guest's end of sending reaches the host behind all of its data.
void Connection::after_flush() {
  if (reset_due_ || waiting_size() != 0 || guest_sends_) return;
  if (!guest_receives_) return reset();  // the clean end (5.10.6.6.2)
  (void)::shutdown(fd(), SHUT_WR);       // its other end may be gone already
}

bool Connection::socket_closed() const {
  pollfd entry{fd(), 0, 0};
  return ::poll(&entry, 1, 0) > 0 && (entry.revents & (POLLHUP | POLLERR)) != 0;
}

void Connection::socket_event(std::uint32_t events) {
  if (finished_ || reset_due_) return;
  readable_ = true;
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) ending_ = true;
  if ((events & EPOLLOUT) != 0) {
    flush();
    after_flush();
  }
  // An event may be of an earlier socket with the same number, so ask again.
  if ((events & EPOLLHUP) == 0 || reset_due_ || !socket_closed()) return;
  if (state_ == State::requested) return reset();
  // What it wrote before its end is read first.
  if (!host_sends_ || !guest_receives_) shutdown_due_ |= kShutdownBoth & ~shutdown_told_;
}

std::uint32_t Connection::credit() const {
  const std::uint32_t used = sent_ - guest_forwarded_;
  return used < guest_buffer_ ? guest_buffer_ - used : 0;
}

bool Connection::can_read() const {
  return state_ == State::open && readable_ && host_sends_ && guest_receives_;
}

bool Connection::has_packets() const {
  if (finished_) return false;
  return reset_due_ || request_due_ || response_due_ || shutdown_due_ != 0 || credit_update_due_ ||
         credit_request_due_ || (can_read() && (credit() != 0 || !credit_asked_));
}

PacketHeader Connection::header(Operation operation) {
  forwarded_told_ = forwarded_;
  credit_update_due_ = false;
  return {.source_cid = kHostCid,
          .target_cid = guest_cid_,
          .source_port = key_.host_port,
          .target_port = key_.guest_port,
          .length = 0,
          .type = kTypeStream,
          .operation = operation,
          .flags = 0,
          .buffer_size = kBufferSize,
          .forwarded = forwarded_};
}

// Reads into `room`, as far as the credit goes; nothing when the socket has no data.
std::optional<std::uint32_t> Connection::read_payload(std::span<const iovec> room) {
  std::size_t left = std::min(credit(), kMaxPayload);
  std::size_t asked = 0;
  std::array<iovec, kMostBuffers> buffers;
  std::size_t count = 0;
  for (const auto& buffer : room) {
    if (left == 0 || count == buffers.size()) break;
    buffers[count] = {buffer.iov_base, std::min(buffer.iov_len, left)};
    left -= buffers[count].iov_len;
    asked += buffers[count].iov_len;
    ++count;
  }
  msghdr message{};
  message.msg_iov = buffers.data();
  message.msg_iovlen = count;
  ssize_t n;
  do {
    n = ::recvmsg(fd(), &message, MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n > 0) {
    // Less than asked for was all there is, and more comes with an event; so does the end, unless
    // its event was before. (A descriptor that somebody passes cuts a read short.)
    const bool cut = (message.msg_flags & MSG_CTRUNC) != 0;
    if (static_cast<std::size_t>(n) < asked && !ending_ && !cut) readable_ = false;
    return static_cast<std::uint32_t>(n);
  }
  readable_ = false;
  if (n < 0 && errno == EAGAIN) return std::nullopt;
  // The host will not send more, and not receive either if it is gone as a whole.
  host_sends_ = false;
  shutdown_due_ |= (n < 0 || socket_closed() ? kShutdownBoth : kShutdownSend) & ~shutdown_told_;
  return std::nullopt;
}

std::optional<PacketHeader> Connection::make(std::span<const iovec> room) {
  if (finished_) return std::nullopt;
  if (reset_due_) {
    finished_ = true;
    return header(Operation::reset);
  }
  if (std::exchange(request_due_, false)) return header(Operation::request);
  if (std::exchange(response_due_, false)) return header(Operation::response);
  if (can_read()) {
    if (credit() == 0) {
      credit_request_due_ = !std::exchange(credit_asked_, true);
    } else if (const auto length = read_payload(room)) {
      sent_ += *length;
      auto packet = header(Operation::data);
      packet.length = *length;
      return packet;
    }
  }
  if (shutdown_due_ != 0) {
    shutdown_told_ |= std::exchange(shutdown_due_, 0);
    auto packet = header(Operation::shutdown);
    packet.flags = shutdown_told_;
    return packet;
  }
  if (std::exchange(credit_request_due_, false)) return header(Operation::credit_request);
  if (credit_update_due_) return header(Operation::credit_update);
  return std::nullopt;
}

}  // namespace vmm::virtio::vsock
