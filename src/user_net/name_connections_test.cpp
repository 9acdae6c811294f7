#include "src/user_net/name_connections.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <string>

#include "src/base/no_descriptors_for_test.h"
#include "src/user_net/accept_pause.h"
#include "src/user_net/bytes.h"
#include "src/user_net/packets_for_test.h"

namespace vmm::user_net {
namespace {

using test::ipv4_frame;
using test::ipv6_frame;
using test::span_of;
using test::tcp;

class NameConnectionsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    config_.ipv6 = true;
    connections_.emplace(config_);
    const auto ready = connections_->set_up();
    ASSERT_TRUE(ready) << ready.error().message();
  }
  static UniqueFd stream(int family) {
    return UniqueFd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  }
  // A name server at port 53 of an address that nobody uses; none where that is not to be had.
  static UniqueFd server_at(const IpAddress& address) {
    const auto at = address.socket_address(kDnsPort);
    auto fd = stream(at.ss_family);
    const int on = 1;
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const auto* raw = reinterpret_cast<const sockaddr*>(&at);
    if (::bind(fd.get(), raw, sizeof at) < 0 || ::listen(fd.get(), 64) < 0) return UniqueFd();
    return fd;
  }
  // What libslirp does with a frame that was redirected.
  UniqueFd connect() {
    auto frame = with_checksum(ipv4_frame(config_.dns, tcp(4000, 53, 2), {.protocol = 6}));
    Packet packet = parse(frame);
    EXPECT_TRUE(connections_->redirect(writable(frame), packet, servers_));
    packet = parse(frame);
    const auto address = ipv4(127, 0, 0, 1);
    const auto at = IpAddress(address).socket_address(packet.destination_port());
    auto fd = stream(AF_INET);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(sockaddr_in)), 0);
    return fd;
  }
  // Until something happens; false when nothing does.
  bool turn(std::int64_t now_ms = 0, int patience_ms = 10'000) {
    polls_.clear();
    connections_->add_polls(polls_, now_ms);
    const int ready = ::poll(polls_.data(), polls_.size(), patience_ms);
    if (ready <= 0) return false;
    connections_->run(polls_, servers_, now_ms);
    return true;
  }
  std::string read(const UniqueFd& fd, std::size_t size) {
    std::string text;
    std::array<char, 64> chunk;
    while (text.size() < size) {
      const ssize_t n = ::recv(fd.get(), chunk.data(), chunk.size(), MSG_DONTWAIT);
      if (n == 0) break;
      if (n > 0) {
        text.append(chunk.data(), static_cast<std::size_t>(n));
      } else if (!turn()) {
        break;
      }
    }
    return text;
  }
  bool is_closed(const UniqueFd& fd) {
    char byte;
    return ::recv(fd.get(), &byte, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET;
  }
  static std::span<std::byte> writable(std::string& frame) {
    return std::as_writable_bytes(std::span(frame));
  }
  static Packet parse(const std::string& frame) {
    Packet packet;
    EXPECT_TRUE(Packet::parse(span_of(frame), packet));
    return packet;
  }
  // Over the pseudo header and the segment: what its checksum has to be while that is zero, and
  // 0xffff when it is right.
  static std::uint16_t tcp_sum(std::span<const std::byte> frame) {
    Packet packet;
    EXPECT_TRUE(Packet::parse(frame, packet));
    const std::size_t addresses = packet.ipv6 ? 32 : 8;
    const std::size_t start = frame.size() - packet.transport.size();
    std::uint64_t sum = htons(IPPROTO_TCP);
    sum += htons(static_cast<std::uint16_t>(packet.transport.size()));
    sum = checksum_add(sum, frame.subspan(start - addresses, addresses));
    return checksum_finish(checksum_add(sum, packet.transport));
  }
  static std::string with_checksum(std::string frame) {
    const std::size_t at = frame.size() - parse(frame).transport.size() + 16;
    const auto sum = tcp_sum(span_of(frame));
    store_raw16(writable(frame), at, sum);
    return frame;
  }

  Config config_;
  std::vector<NameServer> servers_ = {{.address = ipv4(127, 9, 8, 1)}};
  std::optional<NameConnections> connections_;
  std::vector<pollfd> polls_;
};

TEST_F(NameConnectionsTest, RenamesSegmentsOfBothFamilies) {
  const std::array frames = {ipv4_frame(config_.dns, tcp(4000, 53, 2), {.protocol = 6}),
                             ipv6_frame(kDns6, 6, tcp(4000, 53, 2))};
  for (const auto& made : frames) {
    auto frame = with_checksum(made);
    ASSERT_EQ(tcp_sum(span_of(frame)), 0xffff);
    auto packet = parse(frame);
    ASSERT_TRUE(connections_->is_query(packet));
    ASSERT_TRUE(connections_->redirect(writable(frame), packet, servers_));
    packet = parse(frame);
    EXPECT_EQ(packet.destination, packet.ipv6 ? kGateway6 : IpAddress(config_.gateway));
    EXPECT_NE(packet.destination_port(), 53);
    EXPECT_EQ(tcp_sum(span_of(frame)), 0xffff);
    if (!packet.ipv6) {
      EXPECT_EQ(checksum_finish(checksum_add(0, span_of(frame).subspan(14, 20))), 0xffff);
    }
    // And what comes back.
    const auto from = packet.ipv6
                          ? ipv6_frame(kGateway6, 6, tcp(packet.destination_port(), 4000, 18))
                          : ipv4_frame(config_.dhcp_start, tcp(packet.destination_port(), 4000, 18),
                                       {.protocol = 6, .source = config_.gateway});
    auto back = from;
    if (packet.ipv6) {  // its source is the guest's: exchanged
      const auto source = back.substr(22, 16);
      back.replace(22, 16, back.substr(38, 16)).replace(38, 16, source);
    }
    back = with_checksum(back);
    const auto answer = connections_->answer(span_of(back));
    Packet renamed;
    ASSERT_TRUE(Packet::parse(answer, renamed));
    EXPECT_EQ(renamed.source, packet.ipv6 ? kDns6 : IpAddress(config_.dns));
    EXPECT_EQ(renamed.source_port(), 53);
    EXPECT_EQ(tcp_sum(answer), 0xffff);
  }
  auto other = with_checksum(ipv4_frame(config_.dns, tcp(4000, 80, 2), {.protocol = 6}));
  EXPECT_FALSE(connections_->is_query(parse(other)));
  EXPECT_EQ(connections_->answer(span_of(other)).data(), span_of(other).data());
  auto query = with_checksum(frames[0]);
  EXPECT_FALSE(connections_->redirect(writable(query), parse(query), {})) << "no server";
}

TEST_F(NameConnectionsTest, AServerOfIpv6AnswersWhereTheFirstDoesNot) {
  const auto server = server_at(ipv6(0, 1));
  if (!server) GTEST_SKIP() << "port 53 of ::1 is not to be had here";
  servers_.push_back({.address = ipv6(0, 1)});  // nobody listens at the first one
  const auto guest = connect();
  ASSERT_TRUE(write_all(guest.get(), span_of("question")));
  ASSERT_EQ(::fcntl(server.get(), F_SETFL, O_NONBLOCK), 0);
  UniqueFd host;
  while (!host && turn()) host = UniqueFd(::accept4(server.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(host);
  EXPECT_EQ(read(host, 8), "question");
  const std::string answer(100'000, 'a');
  ASSERT_TRUE(write_all(host.get(), span_of(answer)));
  EXPECT_TRUE(read(guest, answer.size()) == answer);
  // The end of one direction is passed on, and that of both is the connection's.
  ASSERT_EQ(::shutdown(guest.get(), SHUT_WR), 0);
  while (!is_closed(host) && turn()) {
  }
  EXPECT_TRUE(is_closed(host));
  host.reset();
  while (!is_closed(guest) && turn()) {
  }
  EXPECT_TRUE(is_closed(guest));
  polls_.clear();
  connections_->add_polls(polls_, 0);
  EXPECT_EQ(polls_.size(), 2u) << "the listeners alone";
}

TEST_F(NameConnectionsTest, WithoutAServerThatAnswersItEnds) {
  const auto guest = connect();
  while (!is_closed(guest) && turn()) {
  }
  EXPECT_TRUE(is_closed(guest));
}

TEST_F(NameConnectionsTest, WithoutDescriptorsAConnectionWaits) {
  const auto guest = connect();
  {
    const vmm::test::NoDescriptors none;
    ASSERT_TRUE(turn());
    EXPECT_EQ(AcceptPause::own().turn(1000), AcceptPause::kMs);
    EXPECT_FALSE(turn(0, 0)) << "it is tried again at once";
    EXPECT_EQ(AcceptPause::own().turn(1001), AcceptPause::kMs - 1);
  }
  EXPECT_LT(AcceptPause::own().turn(1000 + AcceptPause::kMs), 0);
  ASSERT_TRUE(turn());
  // It was taken, and ends as nobody answers.
  while (!is_closed(guest) && turn()) {
  }
  EXPECT_TRUE(is_closed(guest));
}

TEST_F(NameConnectionsTest, ConnectionsAreBoundedInNumberAndTime) {
  const auto server = server_at(ipv4(127, 9, 8, 1));
  if (!server) GTEST_SKIP() << "port 53 of 127.9.8.1 is not to be had here";
  std::vector<UniqueFd> guests;
  for (std::size_t i = 0; i < NameConnections::kConnections + 8; ++i) {
    guests.push_back(connect());
    ASSERT_TRUE(turn(static_cast<std::int64_t>(i)));
  }
  while (turn(100, 0)) {
  }
  EXPECT_EQ(polls_.size(), 2 + 2 * NameConnections::kConnections);
  EXPECT_TRUE(is_closed(guests.front())) << "the oldest gives way";
  EXPECT_FALSE(is_closed(guests.back()));
  polls_.clear();
  connections_->add_polls(polls_, 101 + NameConnections::kPatienceMs);
  EXPECT_EQ(polls_.size(), 2u);
  EXPECT_TRUE(is_closed(guests.back()));
}

}  // namespace
}  // namespace vmm::user_net
