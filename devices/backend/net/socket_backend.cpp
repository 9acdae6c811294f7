#include "devices/backend/net/socket_backend.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

#include "src/base/log.h"
#include "src/base/unix_socket.h"
#include "src/user_net/virtio_net.h"
#include "src/user_net/wire.h"

namespace vmm::net {
namespace {

static_assert(kHeaderSize == user_net::kHeaderSize && kMinFrame == user_net::kMinFrame &&
              kMaxFrame == user_net::kMaxFrame);

// A dozen large segments and more, where the host allows it (net.core.wmem_max).
constexpr int kSocketBuffer = 512 << 10;
constexpr auto kControlPatience = std::chrono::seconds(2);

}  // namespace

SocketBackend::SocketBackend(UniqueFd socket) { adopt(std::move(socket)); }

void SocketBackend::adopt(UniqueFd socket) {
  socket_ = std::move(socket);
  ready_ = closed_ = false;
  // Failing, they leave what the host gives by default.
  (void)::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUF, &kSocketBuffer, sizeof kSocketBuffer);
  const int flags = ::fcntl(socket_.get(), F_GETFL);
  (void)::fcntl(socket_.get(), F_SETFL, flags | O_NONBLOCK);
}

bool SocketBackend::wait_for(int fd, short events, std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd entry{fd, events, 0};
    const int n = ::poll(&entry, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
    if (n > 0) return true;
    if (n == 0 || errno != EINTR) return false;
  }
}

Result<std::unique_ptr<SocketBackend>> SocketBackend::connect(const std::string& path) {
  const auto address = TRY(UnixAddress::of(path));
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno("cannot create a socket");
  if (::connect(socket.get(), address.get(), address.size()) < 0) {
    if (errno == ECONNREFUSED) return fail("nobody listens at network socket '{}'", path);
    return fail_errno("cannot connect to network socket '{}'", path);
  }
  return std::make_unique<SocketBackend>(std::move(socket));
}

Result<void> SocketBackend::wait_ready(std::chrono::milliseconds patience) {
  if (ready_) return {};
  if (!wait_for(socket_.get(), POLLIN, patience)) {
    return fail("the network process did not answer within {} ms", patience.count());
  }
  std::array<char, 4096> message;
  const ssize_t n = ::recv(socket_.get(), message.data(), message.size(), 0);
  user_net::Hello hello;
  if (n < static_cast<ssize_t>(sizeof hello)) {
    return fail("the network process ended before it was ready");
  }
  std::memcpy(&hello, message.data(), sizeof hello);
  if (hello.magic != user_net::Hello::kMagic) {
    return fail("what answers at the network socket is not a network process");
  }
  const auto text =
      std::string_view(message.data(), static_cast<std::size_t>(n)).substr(sizeof hello);
  if (hello.failed != 0) return fail("{}", text);
  static std::atomic_flag said;  // the same of each network, and of each that is started again
  if (!text.empty() && !said.test_and_set()) {
    // check: unlimited-log allowed, once
    log::warn("network process: {}", text);
  }
  ready_ = true;
  return {};
}

std::uint64_t SocketBackend::features() const {
  return virtio_net::kOffloads & ~(virtio_net::kHostEcn | virtio_net::kGuestEcn);
}

Result<void> SocketBackend::send_control(bool active, std::uint64_t features) const {
  const user_net::Control control{.active = active ? 1u : 0u, .features = features};
  return send_message(&control, sizeof control);
}

Result<void> SocketBackend::send_message(const void* message, std::size_t size) const {
  for (;;) {
    if (::send(socket_.get(), message, size, MSG_NOSIGNAL) >= 0) return {};
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return fail_errno("the network process is gone");
    if (!wait_for(socket_.get(), POLLOUT, kControlPatience)) {
      return fail("the network process does not take its frames");
    }
  }
}

Result<void> SocketBackend::start(std::uint64_t features) {
  TRY(wait_ready());
  // Frames for a machine that is gone. Bounded by the socket's buffer, as none come meanwhile.
  std::byte byte;
  while (::recv(socket_.get(), &byte, 1, MSG_DONTWAIT) > 0) {
  }
  return send_control(true, features);
}

Result<void> SocketBackend::set_offloads(std::uint64_t features) {
  return send_control(true, features);
}

void SocketBackend::stop() {
  // An error means that the process is gone, which start() tells.
  (void)send_control(false, 0);
}

IoState SocketBackend::notice_closed() {
  if (!std::exchange(closed_, true)) closed();
  return IoState::closed;
}

SendResult SocketBackend::send(unsigned /*pair*/, std::span<const Frame> frames) {
  SendResult result;
  while (result.done < frames.size()) {
    const std::size_t count = std::min(kBatch, frames.size() - result.done);
    for (std::size_t i = 0; i < count; ++i) {
      const auto& frame = frames[result.done + i];
      messages_[i].msg_hdr = {};
      messages_[i].msg_hdr.msg_iov = const_cast<iovec*>(frame.data());
      messages_[i].msg_hdr.msg_iovlen = frame.size();
    }
    const int n = ::sendmmsg(socket_.get(), messages_.data(), static_cast<unsigned>(count),
                             MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0) {
      result.done += static_cast<std::size_t>(n);
      continue;
    }
    switch (errno) {
      case EINTR:
        continue;
      case EAGAIN:
        result.state = IoState::blocked;
        return result;
      case EPIPE:
      case ECONNRESET:
      case ENOTCONN:
        result.state = notice_closed();
        return result;
      default:  // EMSGSIZE where the host's buffers are tiny, ENOBUFS
        ++result.refused;
        ++result.done;
    }
  }
  return result;
}

ReceiveResult SocketBackend::receive(unsigned /*pair*/, std::span<const iovec> buffers) {
  for (;;) {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(buffers.data());
    message.msg_iovlen = buffers.size();
    const ssize_t n = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return {0, IoState::blocked};
    if (n <= 0) return {0, notice_closed()};
    const auto size = static_cast<std::size_t>(n);
    // Nothing that a network process sends is shorter than a frame or longer than the buffers.
    if (size < kMinFrame || (message.msg_flags & MSG_TRUNC) != 0) continue;
    return {size, IoState::ready};
  }
}

}  // namespace vmm::net
