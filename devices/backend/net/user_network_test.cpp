#include "devices/backend/net/user_network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>

#include "devices/backend/net/user_network_for_test.h"
#include "src/user_net/offload.h"
#include "src/user_net/virtio_net.h"

namespace vmm::net {
namespace {

TEST_F(UserNetworkTest, AnswersArp) {
  start();
  send(arp(1, kBroadcast, std::string(6, 0), kGateway));
  const auto answer = receive_type(0x0806);
  ASSERT_TRUE(answer);
  EXPECT_EQ(get16(answer->frame, 20), 2);
  EXPECT_EQ(get32(answer->frame, 28), kGateway.value);
}

TEST_F(UserNetworkTest, OffersAnAddress) {
  user_net::Config config;
  config.hostname = "guest1";
  start(config);
  const std::string discover = std::string("\1\1\6\0", 4) + be32(0x12345678) + std::string(20, 0) +
                               kGuestMac + std::string(10 + 192, 0) + "\x63\x82\x53\x63" +
                               std::string("\x35\1\1\xff", 4) + std::string(60, 0);
  send(kBroadcast + kGuestMac + udp_frame({0}, 68, {0xffffffff}, 67, discover).substr(12));
  const auto offer = receive_type(0x0800);
  ASSERT_TRUE(offer);
  const std::string reply = offer->frame.substr(14 + 20 + 8);
  EXPECT_EQ(get32(reply, 4), 0x12345678u);
  EXPECT_EQ(get32(reply, 16), kGuest.value);
  EXPECT_NE(reply.find("\x35\1\2"), std::string::npos) << "no offer";
  EXPECT_NE(reply.find("\3\4" + be32(kGateway.value)), std::string::npos) << "no router";
  EXPECT_NE(reply.find("\6\4" + be32(ipv4(10, 0, 2, 3).value)), std::string::npos) << "no DNS";
  EXPECT_NE(reply.find("guest1"), std::string::npos) << "no host name";
}

TEST_F(UserNetworkTest, LargeSegmentsBothWays) {
  std::uint16_t port = 0;
  const auto listener = host_socket(SOCK_STREAM, port);
  start();
  connect(port);
  const UniqueFd host(::accept(listener.get(), nullptr, nullptr));
  const auto down = pattern(300'000);
  std::jthread writer([&] { send_all(host, down); });
  EXPECT_TRUE(receive_stream(5000, port, down.size()) == down);
  writer.join();
  EXPECT_GT(largest_, 15'000u) << "no large segments";
  const auto up = pattern(60'000);
  send_tcp(5000, port, kAck | kPush, "", up);
  EXPECT_TRUE(read_bytes(host, up.size()) == up);
}

TEST_F(UserNetworkTest, SmallSegmentsForGuestsThatTakeNoOthers) {
  std::uint16_t port = 0;
  const auto listener = host_socket(SOCK_STREAM, port);
  start(with_loopback(), 0);
  connect(port);
  const UniqueFd host(::accept(listener.get(), nullptr, nullptr));
  const auto down = pattern(100'000);
  std::jthread writer([&] { send_all(host, down); });
  EXPECT_TRUE(receive_stream(5000, port, down.size()) == down);
  writer.join();
  EXPECT_LE(largest_, 14u + 40 + 1400);
}

TEST_F(UserNetworkTest, AnOpenedWindowIsTold) {
  std::uint16_t port = 0;
  const auto listener = host_socket(SOCK_STREAM, port);
  start();
  connect(port);
  const UniqueFd host(::accept(listener.get(), nullptr, nullptr));
  // The host does not read, until libslirp takes no more.
  std::size_t sent = 0;
  const auto window = [](const Received& segment) { return get16(segment.frame, 48); };
  for (std::size_t space = 65535; space > 1000;) {
    const std::size_t size = std::min<std::size_t>(space, 30'000);
    send_tcp(5000, port, kAck | kPush, "", std::string(size, 'x'));
    sent += size;
    ASSERT_LT(sent, 64u << 20);
    const auto answer = receive_tcp();
    ASSERT_TRUE(answer);
    space = get32(answer->frame, 42) + window(*answer) - sequence_;
  }
  EXPECT_EQ(read_bytes(host, sent).size(), sent);
  std::uint16_t last = 0;
  while (last < 32'000) {
    const auto update = receive_tcp();
    ASSERT_TRUE(update) << "the window stays at " << last;
    last = window(*update);
  }
}

TEST_F(UserNetworkTest, PublishedPortsReachTheGuest) {
  std::uint16_t port = 0;
  (void)host_socket(SOCK_STREAM, port);  // free again, and nobody else's so soon
  user_net::Config config;
  config.forwards = {{.host_port = port, .guest_port = 80}};
  start(config);
  const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const auto syn = receive_tcp();
  ASSERT_TRUE(syn);
  EXPECT_EQ(get16(syn->frame, 36), 80);
  EXPECT_EQ(get32(syn->frame, 30), kGuest.value);
  const auto remote = get16(syn->frame, 34);
  acknowledged_ = get32(syn->frame, 38) + 1;
  send_tcp(80, remote, kSyn | kAck, "\x02\x04" + be16(1400), "");
  const auto request = pattern(100'000);
  std::jthread writer([&] { send_all(client, request); });
  EXPECT_TRUE(receive_stream(80, remote, request.size()) == request);
  writer.join();
  EXPECT_GT(largest_, 15'000u) << "no large segments";
  send_tcp(80, remote, kAck | kPush, "", "welcome");
  EXPECT_EQ(read_bytes(client, 7), "welcome");
}

TEST_F(UserNetworkTest, RangesOfPortsArePublished) {
  user_net::Config config;
  // Three in a row that nobody has.
  const auto listens = [](std::uint16_t port) {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    return ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  };
  std::uint16_t first = 20'000;
  while (!listens(first) || !listens(first + 1) || !listens(first + 2)) first += 3;
  config.forwards = {{.host_port = first, .guest_port = 8000, .count = 3}};
  start(config);
  for (std::uint16_t i = 0; i < 3; ++i) {
    const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(first + i));
    ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const auto syn = receive_tcp();
    ASSERT_TRUE(syn);
    EXPECT_EQ(get16(syn->frame, 36), 8000 + i);
    send_tcp(static_cast<std::uint16_t>(8000 + i), get16(syn->frame, 34), kReset, "", "");
  }
}

TEST_F(UserNetworkTest, TheHostsLoopbackIsOutOfReach) {
  std::uint16_t port = 0, datagram_port = 0;
  const auto listener = host_socket(SOCK_STREAM, port);
  const auto receiver = host_socket(SOCK_DGRAM, datagram_port);
  start({});
  send(arp(1, kBroadcast, std::string(6, 0), kGateway));
  ASSERT_TRUE(receive_type(0x0806));
  for (const auto target : {ipv4(127, 0, 0, 1), ipv4(0, 0, 0, 0), kGateway}) {
    send_tcp_to(target, 5000, port, kSyn);
    send(udp_frame(kGuest, 4000, target, datagram_port, "ping"));
    // In pieces as well.
    auto first = udp_frame(kGuest, 4001, target, datagram_port, "12345678");
    auto last = first;
    first[20] = '\x20';
    last[20] = 0;
    last[21] = 2;
    for (auto* piece : {&first, &last}) {
      const auto ip = std::as_writable_bytes(std::span(*piece)).subspan(14, 20);
      ip[10] = ip[11] = std::byte{0};
      const auto sum = user_net::checksum_finish(user_net::checksum_add(0, ip));
      std::memcpy(&ip[10], &sum, 2);
      send(*piece);
    }
  }
  // The gateway refuses at once; of the others nothing is heard.
  const auto refusal = receive_tcp();
  ASSERT_TRUE(refusal);
  EXPECT_EQ(get32(refusal->frame, 26), kGateway.value);
  EXPECT_EQ(refusal->frame[47], kReset | kAck);
  EXPECT_EQ(get32(refusal->frame, 42), sequence_) << "not what the guest asked for";
  // What was sent has been handled, as the process answers in order.
  send(arp(1, kBroadcast, std::string(6, 0), kGateway));
  ASSERT_TRUE(receive_type(0x0806));
  std::array<pollfd, 2> entries{{{listener.get(), POLLIN, 0}, {receiver.get(), POLLIN, 0}}};
  EXPECT_EQ(::poll(entries.data(), entries.size(), 0), 0) << "a service of the host was reached";
}

TEST_F(UserNetworkTest, PublishedUdpPortsAnswerTheHost) {
  std::uint16_t port = 0;
  (void)host_socket(SOCK_DGRAM, port);
  user_net::Config config;
  config.forwards = {
      {.protocol = user_net::HostForward::Protocol::udp, .host_port = port, .guest_port = 53}};
  start(config);
  std::uint16_t own_port = 0;
  const auto client = host_socket(SOCK_DGRAM, own_port);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::send(client.get(), "name?", 5, 0), 5);
  const auto query = receive_type(0x0800);
  ASSERT_TRUE(query);
  EXPECT_EQ(get16(query->frame, 36), 53);
  const auto peer = Ipv4Address{get32(query->frame, 26)};
  EXPECT_EQ(peer, kGateway);
  send(udp_frame(kGuest, 53, peer, get16(query->frame, 34), "address"));
  EXPECT_EQ(read_bytes(client, 7), "address");
}

TEST_F(UserNetworkTest, FragmentsOfTheGuestArriveWhole) {
  std::uint16_t port = 0;
  const auto host = host_socket(SOCK_DGRAM, port);
  start();
  const auto data = pattern(3000);
  const auto whole = udp_frame(kGuest, 4000, kGateway, port, data).substr(34);
  for (const std::size_t at : {1480u, 0u, 2960u}) {
    auto piece = ip_frame(17, kGuest, kGateway, whole.substr(at, 1480));
    const std::size_t place = at / 8 | (at < 2960 ? 0x2000 : 0);
    piece.replace(20, 2, be16(place));
    piece.replace(24, 2, be16(0));
    const auto ip = std::as_writable_bytes(std::span(piece)).subspan(14, 20);
    const auto sum = user_net::checksum_finish(user_net::checksum_add(0, ip));
    std::memcpy(&ip[10], &sum, 2);
    send(piece);
  }
  EXPECT_EQ(read_bytes(host, data.size()), data);
}

// The host's name servers for a test: resolv.conf in a folder of its own, and sockets at port 53 of
// addresses of the loopback that nobody uses.
class UserNetworkNamesTest : public UserNetworkTest {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/names-test-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
  }
  void TearDown() override {
    network_.reset();
    std::filesystem::remove_all(folder_);
  }
  void name_servers(const std::string& text) {
    const auto path = folder_ / "resolv.conf";
    const auto file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ASSERT_TRUE(file);
    ASSERT_TRUE(write_all(file->get(), bytes_of(text)));
  }
  void start_with_names(const user_net::Config& config = {}) {
    auto network = UserNetwork::spawn(config, folder_ / "resolv.conf");
    ASSERT_TRUE(network);
    network_ = std::move(*network);
    ASSERT_TRUE(network_->start(kAllOffloads));
  }
  static UniqueFd server_at(const char* text, int type = SOCK_DGRAM) {
    const auto address = user_net::IpAddress::parse(text)->socket_address(53);
    UniqueFd fd(::socket(address.ss_family, type | SOCK_CLOEXEC, 0));
    const int on = 1;
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
      return UniqueFd();
    }
    if (type == SOCK_STREAM) (void)::listen(fd.get(), 4);
    return fd;
  }
  static std::string query(std::uint16_t id) {
    return be16(id) + be16(0x0100) + be16(1) + std::string(6, 0) +
           std::string("\4host\0\0\1\0\1", 10);
  }
  void ask(std::uint16_t id) { send(udp_frame(kGuest, 4000, kDns, 53, query(id))); }
  // Takes the query at `server` and answers it.
  static void serve(const UniqueFd& server, std::uint16_t id, const std::string& answer) {
    pollfd entry{server.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&entry, 1, 10'000), 1) << "no query came";
    std::array<char, 512> text;
    sockaddr_storage from{};
    socklen_t size = sizeof from;
    const ssize_t n = ::recvfrom(server.get(), text.data(), text.size(), 0,
                                 reinterpret_cast<sockaddr*>(&from), &size);
    ASSERT_EQ(std::string(text.data(), static_cast<std::size_t>(n)), query(id));
    ASSERT_EQ(::sendto(server.get(), answer.data(), answer.size(), 0,
                       reinterpret_cast<sockaddr*>(&from), size),
              static_cast<ssize_t>(answer.size()));
  }
  // The payload of the next datagram, whose headers are looked at.
  std::string answer() {
    const auto received = receive_type(0x0800);
    if (!received || received->frame.size() < 42) return "nothing came";
    const auto& frame = received->frame;
    EXPECT_EQ(get32(frame, 26), kDns.value);
    EXPECT_EQ(get32(frame, 30), kGuest.value);
    EXPECT_EQ(get16(frame, 34), 53);
    EXPECT_EQ(get16(frame, 36), 4000);
    EXPECT_EQ(frame.substr(0, 6), kGuestMac);
    const auto ip = frame.substr(14, 20);
    EXPECT_EQ(user_net::checksum_finish(user_net::checksum_add(0, bytes_of(ip))), 0xffff);
    const auto sum = be16(17) + be16(frame.size() - 34) + frame.substr(26);
    EXPECT_EQ(user_net::checksum_finish(user_net::checksum_add(0, bytes_of(sum))), 0xffff);
    return frame.substr(42);
  }
  static constexpr Ipv4Address kDns = ipv4(10, 0, 2, 3);
  std::filesystem::path folder_;
};

TEST_F(UserNetworkNamesTest, ServersOfBothFamiliesAnswer) {
  for (const auto* address : {"127.9.9.1", "::1"}) {
    const auto server = server_at(address);
    if (!server) GTEST_SKIP() << "port 53 of " << address << " is not to be had here";
    name_servers(fmt::format("nameserver {}\n", address));
    start_with_names();
    ask(7);
    const auto long_answer = be16(7) + pattern(600);
    serve(server, 7, long_answer);
    EXPECT_EQ(answer(), long_answer) << address;
  }
}

TEST_F(UserNetworkNamesTest, TheNextServerIsAskedWhereNobodyListens) {
  const auto server = server_at("127.9.9.2"), silent = server_at("127.9.9.4");
  if (!server || !silent) GTEST_SKIP() << "port 53 is not to be had here";
  name_servers("nameserver 127.9.9.3\nnameserver 127.9.9.2\n");
  start_with_names();
  ask(1);
  serve(server, 1, be16(1) + "twelve bytes and more");
  EXPECT_EQ(answer(), be16(1) + "twelve bytes and more");
  // And when the same is asked again, as no answer came.
  name_servers("nameserver 127.9.9.4\nnameserver 127.9.9.2\n");
  network_->take_notice();
  ask(2);
  ask(2);
  serve(server, 2, be16(2) + "twelve bytes and more");
  EXPECT_EQ(answer(), be16(2) + "twelve bytes and more");
}

TEST_F(UserNetworkNamesTest, ChangesAreHeardOf) {
  const auto server = server_at("127.9.9.5");
  if (!server) GTEST_SKIP() << "port 53 is not to be had here";
  name_servers("");
  start_with_names();
  ask(1);
  const auto failure = answer();
  ASSERT_GE(failure.size(), 12u);
  EXPECT_EQ(get16(failure, 0), 1);
  EXPECT_EQ(get16(failure, 2), 0x8102) << "a response: server failure";
  name_servers("nameserver 127.9.9.5\n");
  pollfd entry{network_->notice_fd(), POLLIN, 0};
  ASSERT_EQ(::poll(&entry, 1, 10'000), 1);
  network_->take_notice();
  ask(2);
  serve(server, 2, be16(2) + "twelve bytes and more");
  EXPECT_EQ(answer(), be16(2) + "twelve bytes and more");
}

TEST_F(UserNetworkNamesTest, ByTcp) {
  const auto server = server_at("127.9.9.6", SOCK_STREAM);
  if (!server) GTEST_SKIP() << "port 53 is not to be had here";
  name_servers("nameserver ::1\nnameserver 127.9.9.6\n");
  start_with_names();
  send(arp(1, kBroadcast, std::string(6, 0), kDns));
  ASSERT_TRUE(receive_type(0x0806));
  send_tcp_to(kDns, 5000, 53, kSyn, "\x02\x04" + be16(1400));
  const auto agreed = receive_tcp();
  ASSERT_TRUE(agreed);
  EXPECT_EQ(get32(agreed->frame, 26), kDns.value);
  ASSERT_EQ(agreed->frame[47], kSyn | kAck);
  acknowledged_ = get32(agreed->frame, 38) + 1;
  send_tcp_to(kDns, 5000, 53, kAck | kPush, "", "question");
  const UniqueFd host(::accept(server.get(), nullptr, nullptr));
  EXPECT_EQ(read_bytes(host, 8), "question");
  send_all(host, "answer");
  for (;;) {
    const auto segment = receive_tcp();
    ASSERT_TRUE(segment);
    EXPECT_EQ(get32(segment->frame, 26), kDns.value);
    if (tcp_payload(segment->frame).empty()) continue;
    EXPECT_EQ(tcp_payload(segment->frame), "answer");
    break;
  }
  // Other ports of that address are nobody's, and without a server it refuses.
  send_tcp_to(kDns, 5001, 80, kSyn);
  auto refusal = receive_tcp();
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->frame[47], kReset | kAck);
  name_servers("");
  network_->take_notice();
  send_tcp_to(kDns, 5002, 53, kSyn);
  refusal = receive_tcp();
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->frame[47], kReset | kAck);
}

TEST_F(UserNetworkNamesTest, AFloodOfQueriesIsBounded) {
  const auto server = server_at("127.9.9.7");
  if (!server) GTEST_SKIP() << "port 53 is not to be had here";
  name_servers("nameserver 127.9.9.7\n");
  start_with_names();
  for (std::uint16_t id = 0; id < 5000; ++id) ask(id);
  send(arp(1, kBroadcast, std::string(6, 0), kGateway));
  ASSERT_TRUE(receive_type(0x0806));
  std::size_t descriptors = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", network_->process()))) {
    ++descriptors;
  }
  EXPECT_LE(descriptors, 128u + 16);
}

TEST_F(UserNetworkTest, LargeDatagramsAreFragmented) {
  std::uint16_t port = 0;
  const auto host = host_socket(SOCK_DGRAM, port);
  start();
  send(arp(1, kBroadcast, std::string(6, 0), kGateway));
  ASSERT_TRUE(receive_type(0x0806));
  send(udp_frame(kGuest, 4000, kGateway, port, "ping"));
  char text[16];
  sockaddr_in from{};
  socklen_t size = sizeof from;
  ASSERT_EQ(::recvfrom(host.get(), text, sizeof text, 0, reinterpret_cast<sockaddr*>(&from), &size),
            4);
  const auto answer = pattern(40'000);  // libslirp cuts it as well
  ASSERT_EQ(::sendto(host.get(), answer.data(), answer.size(), 0,
                     reinterpret_cast<sockaddr*>(&from), size),
            static_cast<ssize_t>(answer.size()));
  std::string datagram;
  for (bool more = true; more;) {
    const auto fragment = receive_type(0x0800);
    ASSERT_TRUE(fragment);
    EXPECT_LE(fragment->frame.size(), 1514u);
    const auto place = get16(fragment->frame, 20);
    EXPECT_EQ((place & 0x1fff) * 8u, datagram.size());
    more = (place & 0x2000) != 0;
    const auto ip = fragment->frame.substr(14, 20);
    const auto sum = user_net::checksum_finish(user_net::checksum_add(0, bytes_of(ip)));
    EXPECT_EQ(sum, 0xffff) << "the header's checksum is wrong";
    datagram += fragment->frame.substr(34);
  }
  EXPECT_EQ(datagram.substr(8), answer);
}

TEST_F(UserNetworkTest, HostileFramesHarmNobody) {
  start();
  unsigned seed = 7;
  for (int i = 0; i < 3000; ++i) {
    const auto next = [&] { return seed = seed * 1103515245 + 12345, seed >> 16; };
    std::string frame = i % 2 == 0 ? arp(1, kBroadcast, std::string(6, 0), kGateway)
                                   : udp_frame(kGuest, 9, kGateway, 9, std::string(40, 'x'));
    for (unsigned k = 0; k < 4; ++k) frame[next() % frame.size()] = static_cast<char>(next());
    frame.resize(14 + next() % (frame.size() - 13));
    const Header header{.flags = static_cast<std::uint8_t>(next()),
                        .gso_type = static_cast<std::uint8_t>(next()),
                        .hdr_len = static_cast<std::uint16_t>(next()),
                        .gso_size = static_cast<std::uint16_t>(next()),
                        .csum_start = static_cast<std::uint16_t>(next()),
                        .csum_offset = static_cast<std::uint16_t>(next() % 100)};
    const iovec parts[] = {{const_cast<Header*>(&header), sizeof header},
                           {frame.data(), frame.size()}};
    const Frame message(parts);
    while (network_->send(0, {&message, 1}).done == 0) (void)receive(1);
  }
  while (receive(100)) {
  }
  send(arp(1, kBroadcast, std::string(6, 0), kGateway));
  EXPECT_TRUE(receive_type(0x0806));
}

TEST_F(UserNetworkTest, TakenPortsAreNamed) {
  std::uint16_t port = 0;
  const auto holder = host_socket(SOCK_STREAM, port);
  user_net::Config config;
  config.forwards = {{.host_port = port, .guest_port = 80}};
  auto network = UserNetwork::spawn(config);
  ASSERT_TRUE(network);
  const auto result = (*network)->wait_ready();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message(),
            fmt::format("cannot publish tcp port {} of 127.0.0.1: it is taken", port));
}

TEST_F(UserNetworkTest, AddressesThatTheHostDoesNotHaveAreNamed) {
  user_net::Config config;
  config.forwards = {{.host = ipv4(192, 0, 2, 77), .host_port = 8080, .guest_port = 80}};
  auto network = UserNetwork::spawn(config);
  ASSERT_TRUE(network);
  const auto result = (*network)->wait_ready();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message(),
            "cannot publish tcp port 8080 of 192.0.2.77: the host has no such address");
}

TEST_F(UserNetworkTest, IsConfined) {
  start();
  const auto status = read_text_file(fmt::format("/proc/{}/status", network_->process()));
  ASSERT_TRUE(status);
  for (const auto* line : {"\nSeccomp:\t2", "\nNoNewPrivs:\t1", "\nCapEff:\t0000000000000000"}) {
    EXPECT_NE(status->find(line), std::string::npos) << line;
  }
}

TEST_F(UserNetworkTest, EndsWithItsOwner) {
  start();
  const pid_t process = network_->process();
  network_.reset();
  EXPECT_EQ(::kill(process, 0), -1);
  EXPECT_EQ(errno, ESRCH) << "a zombie is left";
}

TEST_F(UserNetworkTest, ADeadProcessIsNoticedAndReaped) {
  start();
  const pid_t process = network_->process();
  ASSERT_EQ(::kill(process, SIGKILL), 0);
  EXPECT_FALSE(receive());
  EXPECT_EQ(network_->process(), 0);
  EXPECT_EQ(::kill(process, 0), -1);
  const auto result = network_->start(0);
  EXPECT_FALSE(result);
}

TEST_F(UserNetworkTest, ADeadProcessIsReplacedAndItsPortsPublishedAgain) {
  std::uint16_t port = 0;
  (void)host_socket(SOCK_STREAM, port);
  user_net::Config config;
  config.forwards = {{.host_port = port, .guest_port = 80}};
  start(config);
  ASSERT_EQ(::kill(network_->process(), SIGKILL), 0);
  EXPECT_FALSE(receive());
  auto delay = network_->retry_delay();
  ASSERT_TRUE(delay);
  EXPECT_EQ(*delay, UserNetwork::kFirstRetry);
  const auto reopened = network_->reopen();
  ASSERT_TRUE(reopened) << reopened.error().message();
  ASSERT_TRUE(network_->start(kAllOffloads));
  send(arp(1, kBroadcast, std::string(6, 0), kGateway));
  ASSERT_TRUE(receive_type(0x0806));
  const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const auto syn = receive_tcp();
  ASSERT_TRUE(syn);
  EXPECT_EQ(get16(syn->frame, 36), 80);
  // A guest that ends it each time waits longer and longer.
  for (int i = 0; i < 20; ++i) delay = network_->retry_delay();
  EXPECT_EQ(*delay, UserNetwork::kLastRetry);
}

TEST_F(UserNetworkTest, APortThatIsTakenMeanwhileIsNamedAndWaitedFor) {
  std::uint16_t port = 0;
  auto holder = host_socket(SOCK_STREAM, port);
  holder.reset();
  user_net::Config config;
  config.forwards = {{.host_port = port, .guest_port = 80}};
  start(config);
  ASSERT_EQ(::kill(network_->process(), SIGKILL), 0);
  EXPECT_FALSE(receive());
  holder = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  ASSERT_EQ(::bind(holder.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(holder.get(), 1), 0);
  const auto refused = network_->reopen();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message(),
            fmt::format("cannot publish tcp port {} of 127.0.0.1: it is taken", port));
  EXPECT_EQ(network_->process(), 0);
  EXPECT_FALSE(receive());
  holder.reset();
  EXPECT_TRUE(network_->reopen());
}

// A number of /proc/PID/status, in KiB.
std::size_t memory_of(pid_t process, std::string_view what) {
  const auto status = read_text_file(fmt::format("/proc/{}/status", process));
  const auto at = status ? status->find(what) : std::string::npos;
  if (at == std::string::npos) return SIZE_MAX;
  return std::strtoul(&(*status)[at + what.size()], nullptr, 10);
}

bool is_limited(pid_t process) {
  const auto limits = read_text_file(fmt::format("/proc/{}/limits", process));
  return limits &&
         limits->find(fmt::format("Max address space         {}", 768u << 20)) != std::string::npos;
}

TEST_F(UserNetworkTest, AFloodOfFragmentsTakesNoMemory) {
  start();
  auto frame = ip_frame(17, kGuest, ipv4(192, 0, 2, 1), std::string(1400, 'x'));
  frame.replace(20, 2, be16(0x2000));
  const auto ip = std::as_writable_bytes(std::span(frame)).subspan(14, 20);
  for (unsigned id = 0; id < 20'000; ++id) {
    frame.replace(18, 2, be16(id));
    ip[10] = ip[11] = std::byte{0};
    const auto sum = user_net::checksum_finish(user_net::checksum_add(0, ip));
    std::memcpy(&ip[10], &sum, 2);
    send(frame);
  }
  send(arp(1, kBroadcast, std::string(6, 0), kGateway));
  ASSERT_TRUE(receive_type(0x0806));
  EXPECT_TRUE(kSanitized || memory_of(network_->process(), "VmHWM:") < 64u << 10);
}

TEST_F(UserNetworkTest, AFloodOfConnectionsIsBounded) {
  std::uint16_t port = 0;
  const auto listener = host_socket(SOCK_STREAM, port);
  start();
  send(arp(1, kBroadcast, std::string(6, 0), kGateway));
  ASSERT_TRUE(receive_type(0x0806));
  for (std::uint16_t from = 1; from <= 4000; ++from) {
    send_tcp_to(kGateway, from, port, kSyn);
    while (receive(0)) {
    }
  }
  send(arp(1, kBroadcast, std::string(6, 0), kGateway));
  ASSERT_TRUE(receive_type(0x0806));
  const pid_t process = network_->process();
  ASSERT_NE(process, 0) << "its memory was not enough for its connections";
  std::size_t descriptors = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", process))) {
    ++descriptors;
  }
  EXPECT_GT(descriptors, 1000u);
  EXPECT_LE(descriptors, 2048u + 64 + 128 + 66);
  EXPECT_TRUE(kSanitized || memory_of(process, "VmPeak:") < 768u << 10);
}

// libslirp keeps a buffer of 22 KiB for each segment that came out of order, of one byte as well.
TEST_F(UserNetworkTest, AGuestThatExhaustsTheProcessGetsAnotherOne) {
  std::uint16_t port = 0;
  const auto listener = host_socket(SOCK_STREAM, port);
  start();
  if (kSanitized) GTEST_SKIP() << "a sanitizer needs more address space than the limit";
  send(arp(1, kBroadcast, std::string(6, 0), kGateway));
  ASSERT_TRUE(receive_type(0x0806));
  std::string frame;
  bool alive = true;
  for (std::uint16_t from = 5000; from < 5003 && alive; ++from) {
    send_tcp_to(kGateway, from, port, kSyn, "\x02\x04" + be16(1400));
    auto agreed = receive_tcp();
    while (agreed && agreed->frame[47] != (kSyn | kAck)) agreed = receive_tcp();
    if (!agreed) break;
    acknowledged_ = get32(agreed->frame, 38) + 1;
    send_tcp_to(kGateway, from, port, kAck);
    // From the end of the window to its beginning, so that each is the first of those that wait.
    for (std::uint32_t ahead = 64'000; ahead > 2 && alive; ahead -= 2) {
      frame = ip_frame(6, kGuest, kGateway,
                       be16(from) + be16(port) + be32(sequence_ + ahead) + be32(acknowledged_) +
                           '\x50' + static_cast<char>(kAck) + be16(65535) + be32(0) + "x");
      const auto bytes = std::as_writable_bytes(std::span(frame));
      auto header = user_net::prepare_large_segment(bytes, *user_net::find_tcp(bytes), 1400);
      header.gso_type = virtio_net::kGsoNone;
      const iovec parts[] = {{&header, sizeof header}, {frame.data(), frame.size()}};
      const Frame message(parts);
      for (;;) {
        const auto state = network_->send(0, {&message, 1}).state;
        alive = state != IoState::closed;
        if (state != IoState::blocked) break;
        while (receive(0)) {
        }
      }
    }
  }
  while (receive(1000)) {
  }
  EXPECT_EQ(network_->process(), 0)
      << "768 MiB were enough: " << memory_of(network_->process(), "VmPeak:");
  const auto reopened = network_->reopen();
  ASSERT_TRUE(reopened) << reopened.error().message();
  ASSERT_TRUE(network_->start(kAllOffloads));
  send(arp(1, kBroadcast, std::string(6, 0), kGateway));
  EXPECT_TRUE(receive_type(0x0806));
}

TEST_F(UserNetworkTest, MemoryIsLimitedAndNothingIsInherited) {
  const UniqueFd stray(::open("/dev/null", O_RDONLY));  // an administrator's, without O_CLOEXEC
  start();
  EXPECT_TRUE(kSanitized || is_limited(network_->process()));
  const auto limits = read_text_file(fmt::format("/proc/{}/limits", network_->process()));
  ASSERT_TRUE(limits);
  EXPECT_NE(limits->find("Max core file size        0 "), std::string::npos) << *limits;
  // The standard streams, its socket and the machine's pidfd.
  for (const auto& entry :
       std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", network_->process()))) {
    const auto number = std::stoi(entry.path().filename());
    const auto target = std::filesystem::read_symlink(entry.path()).string();
    EXPECT_TRUE(number <= 2 || target != "/dev/null") << number << " is " << target;
  }
}

TEST(SocketBackendTest, ConnectsToAListeningProcess) {
  char folder[] = "/tmp/ethernet-test-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/net";
  EXPECT_EQ(SocketBackend::connect(path).error().message(),
            fmt::format("cannot connect to network socket '{}': No such file or directory", path));
  const UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(SocketBackend::connect(path).error().message(),
            fmt::format("nobody listens at network socket '{}'", path));
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  const auto backend = SocketBackend::connect(path);
  ASSERT_TRUE(backend) << backend.error().message();
  EXPECT_EQ((*backend)->wait_ready(std::chrono::milliseconds(10)).error().message(),
            "the network process did not answer within 10 ms");
  const UniqueFd peer(::accept(listener.get(), nullptr, nullptr));
  ASSERT_EQ(::send(peer.get(), "who are you?", 12, 0), 12);
  EXPECT_EQ((*backend)->wait_ready().error().message(),
            "what answers at the network socket is not a network process");
  ::unlink(path.c_str());
  ::rmdir(folder);
}

TEST(UserNetworkProgramTest, AMissingProgramIsNamed) {
  const char* before = ::getenv("VMM_LIBEXEC");
  const std::string saved = before == nullptr ? "" : before;
  ::setenv("VMM_LIBEXEC", "/nowhere", 1);
  const auto network = UserNetwork::spawn({});
  if (before == nullptr) {
    ::unsetenv("VMM_LIBEXEC");
  } else {
    ::setenv("VMM_LIBEXEC", saved.c_str(), 1);
  }
  ASSERT_FALSE(network);
  EXPECT_EQ(network.error().message(),
            "the network program '/nowhere/vmm-net' cannot be run: VMM_LIBEXEC names its folder");
}

}  // namespace
}  // namespace vmm::net
