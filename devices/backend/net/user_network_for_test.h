// The network process end to end, in memory: the test is the guest, by hand-made frames.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/backend/net/user_network.h"
#include "src/user_net/offload.h"
#include "src/user_net/virtio_net.h"

namespace vmm::net {

// A sanitizer's own memory is neither limited nor of interest.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
inline constexpr bool kSanitized = __has_feature(address_sanitizer);
#else
inline constexpr bool kSanitized = false;
#endif

using user_net::ipv4;
using user_net::Ipv4Address;
using virtio_net::Header;

inline constexpr std::uint64_t kAllOffloads =
    virtio_net::kCsum | virtio_net::kGuestCsum | virtio_net::kHostTso4 | virtio_net::kGuestTso4;
inline const std::string kGuestMac("\x52\x54\x00\x12\x34\x56", 6);
inline const std::string kBroadcast(6, '\xff');
inline constexpr Ipv4Address kGuest = ipv4(10, 0, 2, 15), kGateway = ipv4(10, 0, 2, 2);
inline constexpr std::uint8_t kSyn = 2, kReset = 4, kPush = 8, kAck = 16;

inline std::string be16(std::size_t value) {
  return {static_cast<char>(value >> 8 & 255), static_cast<char>(value & 255)};
}
inline std::string be32(std::uint32_t value) { return be16(value >> 16) + be16(value & 0xffff); }
inline std::uint16_t get16(const std::string& text, std::size_t at) {
  return static_cast<std::uint16_t>(static_cast<std::uint8_t>(text.at(at)) << 8 |
                                    static_cast<std::uint8_t>(text.at(at + 1)));
}
inline std::uint32_t get32(const std::string& text, std::size_t at) {
  return std::uint32_t{get16(text, at)} << 16 | get16(text, at + 2);
}
inline std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

struct Received {
  Header header;
  std::string frame;
};

// A socket of the host on the loopback, with a port of the kernel's choice.
inline UniqueFd host_socket(int type, std::uint16_t& port) {
  UniqueFd fd(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  socklen_t size = sizeof address;
  EXPECT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  port = ntohs(address.sin_port);
  if (type == SOCK_STREAM) (void)::listen(fd.get(), 8);
  return fd;
}

class UserNetworkTest : public ::testing::Test {
 protected:
  // Its services are on the host's loopback, so that is asked for by default.
  static user_net::Config with_loopback() {
    user_net::Config config;
    config.host_loopback = true;
    return config;
  }
  void start(const user_net::Config& config = with_loopback(),
             std::uint64_t features = kAllOffloads) {
    auto network = UserNetwork::spawn(config);
    ASSERT_TRUE(network) << network.error().message();
    network_ = std::move(*network);
    const auto result = network_->start(features);
    ASSERT_TRUE(result) << result.error().message();
  }
  void send(const std::string& frame, Header header = {}) {
    const iovec parts[] = {{&header, sizeof header},
                           {const_cast<char*>(frame.data()), frame.size()}};
    const Frame message(parts);
    for (;;) {
      const auto sent = network_->send(0, {&message, 1});
      if (sent.done == 1) return;
      ASSERT_EQ(sent.state, IoState::blocked) << "the network process is gone";
      pollfd entry{network_->fd(0), POLLOUT, 0};
      ASSERT_EQ(::poll(&entry, 1, 10'000), 1);
    }
  }
  std::optional<Received> receive(int patience_ms = 10'000) {
    std::string buffer(kMaxFrame, 0);
    const iovec part{buffer.data(), buffer.size()};
    for (;;) {
      const auto result = network_->receive(0, {&part, 1});
      if (result.size != 0) {
        Received received;
        std::memcpy(&received.header, buffer.data(), sizeof received.header);
        received.frame = buffer.substr(kHeaderSize, result.size - kHeaderSize);
        return received;
      }
      pollfd entry{network_->fd(0), POLLIN, 0};
      if (result.state == IoState::closed || ::poll(&entry, 1, patience_ms) <= 0) {
        return std::nullopt;
      }
    }
  }
  // The next frame of an EtherType; answers requests for the guest's address on the way.
  std::optional<Received> receive_type(std::uint16_t type, int patience_ms = 10'000) {
    while (auto received = receive(patience_ms)) {
      if (get16(received->frame, 12) == type) return received;
      if (get16(received->frame, 12) == 0x0806 && get16(received->frame, 20) == 1) {
        send(arp(2, received->frame.substr(6, 6), received->frame.substr(22, 6), kGateway));
      }
    }
    return std::nullopt;
  }
  static std::string arp(std::uint16_t operation, const std::string& to,
                         const std::string& target_mac, Ipv4Address target) {
    return to + kGuestMac + be16(0x0806) + be16(1) + be16(0x0800) + "\6\4" + be16(operation) +
           kGuestMac + be32(kGuest.value) + target_mac + be32(target.value);
  }
  static std::string ip_frame(std::uint8_t protocol, Ipv4Address from, Ipv4Address to,
                              const std::string& payload) {
    std::string ip = std::string("\x45\0", 2) + be16(20 + payload.size()) + be32(0x4000) +
                     std::string("\x40", 1) + static_cast<char>(protocol) + be16(0) +
                     be32(from.value) + be32(to.value);
    const auto sum = user_net::checksum_finish(user_net::checksum_add(0, bytes_of(ip)));
    std::memcpy(ip.data() + 10, &sum, 2);
    const std::string gateway_mac("\x52\x55\x0a\x00\x02\x02", 6);
    return gateway_mac + kGuestMac + be16(0x0800) + ip + payload;
  }
  static std::string udp_frame(Ipv4Address from, std::uint16_t from_port, Ipv4Address to,
                               std::uint16_t to_port, const std::string& payload) {
    return ip_frame(17, from, to,
                    be16(from_port) + be16(to_port) + be16(8 + payload.size()) + be16(0) + payload);
  }
  void send_tcp(std::uint16_t from, std::uint16_t to, std::uint8_t flags,
                const std::string& options, const std::string& payload) {
    send_tcp_to(kGateway, from, to, flags, options, payload);
  }
  void send_tcp_to(Ipv4Address target, std::uint16_t from, std::uint16_t to, std::uint8_t flags,
                   const std::string& options = "", const std::string& payload = "") {
    const auto words = static_cast<char>((20 + options.size()) / 4 << 4);
    auto frame = ip_frame(6, kGuest, target,
                          be16(from) + be16(to) + be32(sequence_) + be32(acknowledged_) + words +
                              static_cast<char>(flags) + be16(65535) + be32(0) + options + payload);
    const auto bytes = std::as_writable_bytes(std::span(frame));
    // A guest with offloads leaves checksum and segments to the device.
    auto header = user_net::prepare_large_segment(bytes, *user_net::find_tcp(bytes), 1460);
    if (payload.size() <= 1460) header.gso_type = virtio_net::kGsoNone;
    send(frame, header);
    sequence_ += static_cast<std::uint32_t>(payload.size() + ((flags & kSyn) != 0 ? 1 : 0));
  }
  std::optional<Received> receive_tcp() {
    while (auto received = receive_type(0x0800)) {
      if (received->frame[23] == 6) return received;
    }
    return std::nullopt;
  }
  static std::string tcp_payload(const std::string& frame) {
    return frame.substr(user_net::find_tcp(bytes_of(frame))->payload);
  }
  // Takes `size` bytes of a stream, acknowledging each segment; the largest frame into largest_.
  std::string receive_stream(std::uint16_t own, std::uint16_t other, std::size_t size) {
    std::string stream;
    while (stream.size() < size) {
      const auto segment = receive_tcp();
      if (!segment) break;
      const auto payload = tcp_payload(segment->frame);
      if (payload.empty() || get32(segment->frame, 38) != acknowledged_) continue;
      check_segment(*segment);
      stream += payload;
      acknowledged_ += static_cast<std::uint32_t>(payload.size());
      send_tcp(own, other, kAck, "", "");
    }
    return stream;
  }
  void check_segment(const Received& segment) {
    largest_ = std::max(largest_, segment.frame.size());
    if (segment.frame.size() <= 1514) return;
    EXPECT_EQ(segment.header.gso_type, virtio_net::kGsoTcp4);
    EXPECT_EQ(segment.header.gso_size, 1400) << "not what the guest's SYN said";
    EXPECT_EQ(segment.header.flags, virtio_net::kNeedsCsum);
    EXPECT_EQ(segment.header.csum_start, 34);
    EXPECT_EQ(segment.header.hdr_len, 54);
  }
  // From the guest's port 5000 to the host's `port`.
  void connect(std::uint16_t port) {
    send(arp(1, kBroadcast, std::string(6, 0), kGateway));
    ASSERT_TRUE(receive_type(0x0806));
    send_tcp(5000, port, kSyn, "\x02\x04" + be16(1400), "");
    const auto answer = receive_tcp();
    ASSERT_TRUE(answer);
    ASSERT_EQ(answer->frame[47], kSyn | kAck);
    acknowledged_ = get32(answer->frame, 38) + 1;
    send_tcp(5000, port, kAck, "", "");
  }

  // As a machine does it, in words.
  Result<void> set_ports(const std::vector<std::string>& words) {
    std::vector<user_net::HostForward> wanted;
    for (const auto& one : words) wanted.push_back(user_net::HostForward::parse(one).value());
    auto change = network_->prepare_ports(wanted);
    return change ? (*change)->make() : std::unexpected(change.error());
  }
  // Of the host, to its loopback; empty where nobody listens.
  static UniqueFd call(std::uint16_t port, int type = SOCK_STREAM) {
    UniqueFd client(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    const auto* to = reinterpret_cast<const sockaddr*>(&address);
    if (::connect(client.get(), to, sizeof address) < 0) client.reset();
    return client;
  }
  // The guest takes the connection that comes to its port; the other side's port.
  std::uint16_t take_call(std::uint16_t own) {
    auto syn = receive_tcp();
    while (syn && syn->frame[47] != kSyn) syn = receive_tcp();
    if (!syn) return 0;
    EXPECT_EQ(get16(syn->frame, 36), own);
    const auto remote = get16(syn->frame, 34);
    acknowledged_ = get32(syn->frame, 38) + 1;
    send_tcp(own, remote, kSyn | kAck, "\x02\x04" + be16(1400), "");
    return remote;
  }

  std::unique_ptr<UserNetwork> network_;
  std::uint32_t sequence_ = 1000;
  std::uint32_t acknowledged_ = 0;
  std::size_t largest_ = 0;
};

inline std::string pattern(std::size_t size) {
  std::string bytes(size, 0);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 13 + i / 4099);
  return bytes;
}

inline void send_all(const UniqueFd& fd, const std::string& text) {
  ASSERT_TRUE(write_all(fd.get(), bytes_of(text)));
}

inline std::string read_bytes(const UniqueFd& fd, std::size_t size) {
  std::string text(size, 0);
  std::size_t done = 0;
  while (done < size) {
    pollfd entry{fd.get(), POLLIN, 0};
    if (::poll(&entry, 1, 10'000) <= 0) break;
    const ssize_t n = ::recv(fd.get(), text.data() + done, size - done, 0);
    if (n <= 0) break;
    done += static_cast<std::size_t>(n);
  }
  text.resize(done);
  return text;
}

}  // namespace vmm::net
