#include "src/user_net/ports.h"

#include <libslirp.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "src/user_net/handed_socket.h"
#include "src/user_net/resource_limits.h"

namespace vmm::user_net {
namespace {

// As libslirp takes them.
struct Place {
  sockaddr_storage host, guest;
  socklen_t size;
  int flags;

  explicit Place(const HostForward& port) {
    const bool ipv4 = port.host.is_ipv4();
    // An address of zeroes is the guest's own, whatever it will be.
    const bool given = port.guest != IpAddress{};
    const auto guest_address = ipv4 && !given ? IpAddress(Ipv4Address{}) : port.guest;
    host = port.host.socket_address(port.host_port);
    guest = guest_address.socket_address(port.guest_port);
    size = ipv4 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    // Of both families at once there are two, so that [::] and 0.0.0.0 do not get in each other's
    // way.
    flags = (port.protocol == HostForward::Protocol::udp ? SLIRP_HOSTFWD_UDP : 0) |
            (ipv4 ? 0 : SLIRP_HOSTFWD_V6ONLY);
  }
  const sockaddr* host_address() const { return reinterpret_cast<const sockaddr*>(&host); }
  const sockaddr* guest_address() const { return reinterpret_cast<const sockaddr*>(&guest); }
};

bool add(Slirp* slirp, const HostForward& port) {
  const Place place(port);
  return ::slirp_add_hostxfwd(slirp, place.host_address(), place.size, place.guest_address(),
                              place.size, place.flags) == 0;
}

bool remove(Slirp* slirp, const HostForward& port) {
  const Place place(port);
  return ::slirp_remove_hostxfwd(slirp, place.host_address(), place.size, place.flags) == 0;
}

HostForward forward_in(const PortMessage& message) {
  HostForward port{.host_port = message.host_port, .guest_port = message.guest_port};
  if (message.udp != 0) port.protocol = HostForward::Protocol::udp;
  port.host.bytes = message.host;
  port.guest.bytes = message.guest;
  return port;
}

}  // namespace

Result<void> Ports::open(Slirp* slirp, const HostForward& forward) {
  for (unsigned i = 0; i < forward.count; ++i) {
    const auto port = forward.one(i);
    if (!add(slirp, port)) return not_published(port);
    ++count_;
  }
  return {};
}

Result<void> Ports::change(Slirp* slirp, const PortMessage& message, int socket) {
  const auto port = forward_in(message);
  if (message.publish == 0) {
    if (!remove(slirp, port)) return fail("{} is not published", port.host_end_text());
    --count_;
    return {};
  }
  if (socket < 0) return fail("cannot publish {}: its socket is missing", port.host_end_text());
  if (count_ >= kMostPublished) {
    return fail("cannot publish {}: {} ports are", port.host_end_text(), count_);
  }
  const HandedSocket handed(socket);
  if (!add(slirp, port)) return not_published(port);
  ++count_;
  published_udp_ = published_udp_ || port.protocol == HostForward::Protocol::udp;
  return {};
}

bool Ports::serve(Slirp* slirp) {
  limit_descriptors(kMostPublished);  // one comes that connections have no part of
  PortMessage message;
  iovec part{&message, sizeof message};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> space{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = space.data();
  header.msg_controllen = space.size();
  const ssize_t n = ::recvmsg(fd(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  UniqueFd socket;
  const cmsghdr* control = n > 0 ? CMSG_FIRSTHDR(&header) : nullptr;
  if (control != nullptr && control->cmsg_type == SCM_RIGHTS &&
      control->cmsg_len == CMSG_LEN(sizeof(int))) {
    int received = -1;
    std::memcpy(&received, CMSG_DATA(control), sizeof received);
    socket = UniqueFd(received);
  }
  if (n != static_cast<ssize_t>(sizeof message) || message.magic != Hello::kMagic) return false;
  const auto changed = change(slirp, message, socket.get());
  socket.reset();
  limit_descriptors(count_);
  Hello answer;
  answer.failed = changed ? 0 : 1;
  std::string text = changed ? "" : changed.error().message();
  const iovec parts[] = {{&answer, sizeof answer}, {text.data(), text.size()}};
  msghdr reply{};
  reply.msg_iov = const_cast<iovec*>(parts);
  reply.msg_iovlen = 2;
  // A machine that asks one thing after the other has room for the answer.
  return ::sendmsg(fd(), &reply, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

}  // namespace vmm::user_net
