// The network process with a real TCP/IP at the guest's end: a network namespace of the test's own,
// whose tap is joined to the process. Skipped where namespaces or taps cannot be made.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "devices/backend/net/tap.h"
#include "devices/backend/net/user_network.h"
#include "src/user_net/virtio_net.h"

namespace vmm::net {
namespace {

constexpr int kSkipped = 77;
constexpr std::size_t kBytes = 6u << 20;

std::string pattern(std::size_t size) {
  std::string bytes(size, 0);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7 + i / 1021);
  return bytes;
}

bool send_all(int fd, const std::string& bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::send(fd, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (n <= 0) return false;
    done += static_cast<std::size_t>(n);
  }
  return true;
}

std::string read_to_end(int fd) {
  std::string bytes;
  std::vector<char> chunk(256u << 10);
  for (;;) {
    pollfd entry{fd, POLLIN, 0};
    if (::poll(&entry, 1, 20'000) <= 0) return bytes;
    const ssize_t n = ::recv(fd, chunk.data(), chunk.size(), 0);
    if (n <= 0) return bytes;
    bytes.append(chunk.data(), static_cast<std::size_t>(n));
  }
}

// Sends all, ends its side, and takes all that the other side sends.
bool exchange(int fd) {
  const auto expected = pattern(kBytes);
  bool sent = false;
  std::thread sender([&] {
    sent = send_all(fd, expected);
    ::shutdown(fd, SHUT_WR);
  });
  const auto received = read_to_end(fd);
  sender.join();
  return sent && received == expected;
}

UniqueFd listen_at(const sockaddr* address, socklen_t size) {
  UniqueFd fd(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::bind(fd.get(), address, size), 0);
  EXPECT_EQ(::listen(fd.get(), 8), 0);
  return fd;
}

std::uint16_t port_of(const UniqueFd& fd) {
  sockaddr_in6 address{};
  socklen_t size = sizeof address;
  EXPECT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  return ntohs(address.sin6_port);  // at the same place in both families
}

// --- The guest: runs in a child, in a namespace of its own. -------------------------------------

// A tap with the guest's addresses, up; its descriptor, or an empty one where that is not allowed.
UniqueFd make_guest_card() {
  const bool root = ::geteuid() == 0;
  if (::unshare(root ? CLONE_NEWNET : CLONE_NEWUSER | CLONE_NEWNET) < 0) return UniqueFd();
  UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq request{};
  std::strcpy(request.ifr_name, "eth0");
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (!tun || ::ioctl(tun.get(), TUNSETIFF, &request) < 0) return UniqueFd();
  // The prefix comes by itself; without waiting for duplicates.
  for (const auto* key : {"accept_dad=0", "accept_ra=2"}) {
    const std::string text(key);
    const auto equals = text.find('=');
    const auto path = "/proc/sys/net/ipv6/conf/eth0/" + text.substr(0, equals);
    if (auto file = open_file(path, O_WRONLY)) (void)!::write(file->get(), &text[equals + 1], 1);
  }
  const UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(0x0a00020f);
  std::memcpy(&request.ifr_addr, &address, sizeof address);
  if (::ioctl(control.get(), SIOCSIFADDR, &request) < 0) return UniqueFd();
  address.sin_addr.s_addr = htonl(0xffffff00);
  std::memcpy(&request.ifr_netmask, &address, sizeof address);
  (void)::ioctl(control.get(), SIOCSIFNETMASK, &request);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (::ioctl(control.get(), SIOCSIFFLAGS, &request) < 0) return UniqueFd();
  return tun;
}

// Connects, for as long as addresses are not there yet.
UniqueFd connect_patiently(const sockaddr* address, socklen_t size) {
  for (int i = 0; i < 200; ++i) {
    UniqueFd fd(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(fd.get(), address, size) == 0) return fd;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return UniqueFd();
}

void send_descriptor(int socket, int fd) {
  char byte = 0;
  iovec part{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fd)> space{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space.data();
  message.msg_controllen = space.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  (void)::sendmsg(socket, &message, 0);
}

UniqueFd receive_descriptor(int socket) {
  char byte = 0;
  iovec part{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> space{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space.data();
  message.msg_controllen = space.size();
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) <= 0) return UniqueFd();
  int fd = -1;
  if (const cmsghdr* header = CMSG_FIRSTHDR(&message)) {
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  }
  return UniqueFd(fd);
}

struct Ports {
  std::uint16_t ipv4, ipv6, published, published6;
};

int be_guest(int socket, Ports ports) {
  const UniqueFd tap = make_guest_card();
  if (!tap) return kSkipped;
  send_descriptor(socket, tap.get());
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_port = htons(80);
  const auto server = listen_at(reinterpret_cast<sockaddr*>(&any), sizeof any);
  sockaddr_in gateway{};
  gateway.sin_family = AF_INET;
  gateway.sin_addr.s_addr = htonl(0x0a000202);
  gateway.sin_port = htons(ports.ipv4);
  const auto out = connect_patiently(reinterpret_cast<sockaddr*>(&gateway), sizeof gateway);
  if (!out || !exchange(out.get())) return 1;
  const UniqueFd in(::accept(server.get(), nullptr, nullptr));
  if (!exchange(in.get())) return 2;
  if (ports.ipv6 == 0) return 0;
  sockaddr_in6 gateway6{};
  gateway6.sin6_family = AF_INET6;
  ::inet_pton(AF_INET6, "fec0::2", &gateway6.sin6_addr);
  gateway6.sin6_port = htons(ports.ipv6);
  const auto out6 = connect_patiently(reinterpret_cast<sockaddr*>(&gateway6), sizeof gateway6);
  if (!out6 || !exchange(out6.get())) return 3;
  sockaddr_in6 any6{};
  any6.sin6_family = AF_INET6;
  any6.sin6_port = htons(81);
  const auto server6 = listen_at(reinterpret_cast<sockaddr*>(&any6), sizeof any6);
  const char ready = 1;
  if (::send(socket, &ready, 1, 0) != 1) return 4;
  const UniqueFd in6(::accept(server6.get(), nullptr, nullptr));
  return exchange(in6.get()) ? 0 : 4;
}

// --- The host -----------------------------------------------------------------------------------

// Carries frames between the two until it is to stop.
void join_backends(NetBackend& a, NetBackend& b, const std::stop_token& stop) {
  std::vector<std::byte> buffer(kMaxFrame);
  const auto carry = [&](NetBackend& from, NetBackend& to) {
    for (int i = 0; i < 64; ++i) {
      const iovec room{buffer.data(), buffer.size()};
      const auto received = from.receive(0, {&room, 1});
      if (received.size == 0) return;
      const iovec part{buffer.data(), received.size};
      const Frame frame(&part, 1);
      while (to.send(0, {&frame, 1}).state == IoState::blocked && !stop.stop_requested()) {
        pollfd entry{to.fd(0), POLLOUT, 0};
        (void)::poll(&entry, 1, 100);
      }
    }
  };
  while (!stop.stop_requested()) {
    std::array<pollfd, 2> entries{{{a.fd(0), POLLIN, 0}, {b.fd(0), POLLIN, 0}}};
    (void)::poll(entries.data(), entries.size(), 100);
    carry(a, b);
    carry(b, a);
  }
}

void exchange_with_guest(std::uint64_t features) {
  sockaddr_in loopback{};
  loopback.sin_family = AF_INET;
  loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const auto server = listen_at(reinterpret_cast<sockaddr*>(&loopback), sizeof loopback);
  sockaddr_in6 loopback6{};
  loopback6.sin6_family = AF_INET6;
  loopback6.sin6_addr = in6addr_loopback;
  UniqueFd server6(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const bool ipv6 =
      ::bind(server6.get(), reinterpret_cast<sockaddr*>(&loopback6), sizeof loopback6) == 0 &&
      ::listen(server6.get(), 8) == 0;
  std::uint16_t published = 0, published6 = 0;
  {
    const auto finder = listen_at(reinterpret_cast<sockaddr*>(&loopback), sizeof loopback);
    published = port_of(finder);
    if (ipv6) {
      const auto finder6 = listen_at(reinterpret_cast<sockaddr*>(&loopback6), sizeof loopback6);
      published6 = port_of(finder6);
    }
  }
  int sockets[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
  const UniqueFd own(sockets[0]);
  UniqueFd other(sockets[1]);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const Ports ports{port_of(server), ipv6 ? port_of(server6) : std::uint16_t{0}, published,
                      published6};
    ::_exit(be_guest(other.get(), ports));
  }
  other.reset();
  const auto queue = receive_descriptor(own.get());
  if (!queue) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    GTEST_SKIP() << "no network namespace with a tap in it can be made here";
  }
  auto tap = TapBackend::adopt({{queue.get()}});
  ASSERT_TRUE(tap) << tap.error().message();
  user_net::Config config;
  config.ipv6 = ipv6;
  config.host_loopback = true;
  config.forwards = {{.host_port = published, .guest_port = 80}};
  if (ipv6) {
    config.forwards.push_back(
        {.host = user_net::ipv6(0, 1), .host_port = published6, .guest_port = 81});
  }
  auto network = UserNetwork::spawn(config);
  ASSERT_TRUE(network);
  ASSERT_TRUE((*tap)->start(features));
  const auto started = (*network)->start(features);
  ASSERT_TRUE(started) << started.error().message();
  const std::jthread carrier(
      [&](const std::stop_token& stop) { join_backends(**tap, **network, stop); });

  const UniqueFd from_guest(::accept(server.get(), nullptr, nullptr));
  EXPECT_TRUE(exchange(from_guest.get()));
  loopback.sin_port = htons(published);
  const auto to_guest = connect_patiently(reinterpret_cast<sockaddr*>(&loopback), sizeof loopback);
  EXPECT_TRUE(exchange(to_guest.get()));
  if (ipv6) {
    const UniqueFd from_guest6(::accept(server6.get(), nullptr, nullptr));
    EXPECT_TRUE(exchange(from_guest6.get()));
    char ready = 0;
    ASSERT_EQ(::recv(own.get(), &ready, 1, 0), 1);
    loopback6.sin6_port = htons(published6);
    const auto to_guest6 =
        connect_patiently(reinterpret_cast<sockaddr*>(&loopback6), sizeof loopback6);
    EXPECT_TRUE(exchange(to_guest6.get()));
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0)
      << "1: to the gateway, 2: by the published port, 3: IPv6, 4: both";
}

TEST(UserNetworkTcpTest, MegabytesBothWaysWithOffloads) {
  exchange_with_guest(virtio_net::kCsum | virtio_net::kGuestCsum | virtio_net::kHostTso4 |
                      virtio_net::kHostTso6 | virtio_net::kGuestTso4 | virtio_net::kGuestTso6);
}

TEST(UserNetworkTcpTest, MegabytesBothWaysWithout) { exchange_with_guest(0); }

}  // namespace
}  // namespace vmm::net
