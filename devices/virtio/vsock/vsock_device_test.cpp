#include "devices/virtio/vsock/vsock_device.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <set>
#include <thread>

#include "devices/virtio/device_suite_test.h"
#include "src/base/worker.h"
#include "tests/support/virtio_driver.h"

namespace vmm::virtio {
namespace {

using test::DriverQueue;
using test::GuestRam;
using test::readable;
using test::readable_struct;
using test::writable;
using vsock::Operation;
using vsock::PacketHeader;

constexpr std::uint32_t kCid = 3;

struct Packet {
  PacketHeader header;
  std::string payload;
};

std::string pattern(std::size_t size, unsigned seed) {
  std::string bytes(size, 0);
  for (std::size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<char>(i * 31 + i / 255 + seed);
  }
  return bytes;
}

// The test is the guest's driver by queues and the host by sockets.
class VsockTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/vsock-test-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    path_ = folder_ + "/vsock";
    worker_ = std::move(Worker::start("vsock").value());
    auto device = VsockDevice::create({.cid = kCid, .path = path_}, worker_->loop());
    ASSERT_TRUE(device) << device.error().message();
    device_ = std::move(*device);
    ASSERT_TRUE(device_->activate(
        test::activation_of(ram_.memory(), kFeatureEventIdx, {&rx_, &tx_, &events_}, interrupts_)));
    for (int i = 0; i < rx_buffers_; ++i) rx_.add({writable(4096)});
    rx_.kick();
  }
  void TearDown() override {
    (void)device_->deactivate();
    device_.reset();
    EXPECT_FALSE(std::filesystem::exists(path_)) << "the socket stays behind";
    std::filesystem::remove_all(folder_);
  }

  // The guest's side.
  PacketHeader header(Operation operation, std::uint32_t guest_port, std::uint32_t host_port) {
    return {.source_cid = kCid,
            .target_cid = vsock::kHostCid,
            .source_port = guest_port,
            .target_port = host_port,
            .type = vsock::kTypeStream,
            .operation = operation,
            .buffer_size = credit_,
            .forwarded = forwarded_};
  }
  void send(PacketHeader packet, const std::string& payload = "") {
    packet.length = static_cast<std::uint32_t>(payload.size());
    if (payload.empty()) {
      tx_.add({readable_struct(packet)});
    } else {
      tx_.add({readable_struct(packet), readable(payload)});
    }
    tx_.kick();
    ASSERT_TRUE(tx_.wait_used());
  }
  std::optional<Packet> receive(std::chrono::milliseconds patience = std::chrono::seconds(10)) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    do {
      if (const auto used = rx_.poll_used()) {
        const auto text = rx_.text(used->head, 0).substr(0, used->written);
        Packet packet;
        EXPECT_GE(text.size(), sizeof packet.header);
        std::memcpy(&packet.header, text.data(), sizeof packet.header);
        packet.payload = text.substr(sizeof packet.header);
        EXPECT_EQ(packet.payload.size(), packet.header.length);
        EXPECT_EQ(packet.header.target_cid, kCid);
        rx_.add({writable(4096)});
        rx_.kick();
        return packet;
      }
      std::this_thread::yield();
    } while (std::chrono::steady_clock::now() < deadline);
    return std::nullopt;
  }
  Packet expect(Operation operation) {
    const auto packet = receive();
    EXPECT_TRUE(packet) << "no packet came";
    if (!packet) return {};
    EXPECT_EQ(static_cast<int>(packet->header.operation), static_cast<int>(operation));
    return *packet;
  }
  void expect_silence() {
    const auto packet = receive(std::chrono::milliseconds(50));
    EXPECT_FALSE(packet) << static_cast<int>(packet->header.operation);
  }

  // The host's side.
  static std::string read_some(const UniqueFd& socket, std::size_t size) {
    std::string bytes(size, 0);
    std::size_t done = 0;
    while (done < size) {
      pollfd entry{socket.get(), POLLIN, 0};
      if (::poll(&entry, 1, 10'000) <= 0) break;
      const ssize_t n = ::recv(socket.get(), bytes.data() + done, size - done, 0);
      if (n <= 0) break;
      done += static_cast<std::size_t>(n);
    }
    bytes.resize(done);
    return bytes;
  }
  static std::string read_line(const UniqueFd& socket) {
    std::string line;
    while (!line.ends_with('\n')) {
      const auto next = read_some(socket, 1);
      if (next.empty()) break;
      line += next;
    }
    return line;
  }
  static bool ended(const UniqueFd& socket) { return read_some(socket, 1).empty(); }
  static void write_text(const UniqueFd& socket, const std::string& text) {
    ASSERT_TRUE(write_all(socket.get(), std::as_bytes(std::span(text))));
  }

  struct Stream {
    UniqueFd socket;  // the host's
    std::uint32_t guest_port = 0, host_port = 0;
  };
  // The host connects to `port` of the guest, which accepts.
  Stream connect_to_guest(std::uint32_t port) {
    Stream stream{std::move(connect_unix(path_).value()), port, 0};
    write_text(stream.socket, fmt::format("CONNECT {}\n", port));
    const auto request = expect(Operation::request);
    EXPECT_EQ(request.header.target_port, port);
    EXPECT_EQ(request.header.source_cid, vsock::kHostCid);
    EXPECT_EQ(request.header.buffer_size, vsock::Connection::kBufferSize);
    stream.host_port = request.header.source_port;
    send(header(Operation::response, port, stream.host_port));
    EXPECT_EQ(read_line(stream.socket), fmt::format("OK {}\n", stream.host_port));
    return stream;
  }
  // The guest connects to `port` of the host, where `listener` is.
  Stream connect_to_host(const UnixListener& listener, std::uint32_t guest_port,
                         std::uint32_t port) {
    send(header(Operation::request, guest_port, port));
    expect(Operation::response);
    return {listener.accept(), guest_port, port};
  }
  UnixListener listen(std::uint32_t port) {
    return std::move(UnixListener::create(fmt::format("{}_{}", path_, port)).value());
  }

  std::string folder_, path_;
  GuestRam ram_{1u << 30};
  test::TestInterrupts interrupts_;
  DriverQueue rx_{ram_, 256};
  DriverQueue tx_{ram_, 256};
  DriverQueue events_{ram_, 16};
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<VsockDevice> device_;
  std::uint32_t credit_ = 256u << 10;
  std::uint32_t forwarded_ = 0;
  int rx_buffers_ = 100;
};

class VsockWithoutRoomTest : public VsockTest {
 protected:
  VsockWithoutRoomTest() { rx_buffers_ = 0; }
};

TEST_F(VsockTest, TellsTheCid) {
  std::array<std::byte, 10> config;
  device_->read_config(0, config);
  EXPECT_EQ(config[0], std::byte{3});
  EXPECT_EQ(config[1], std::byte{0});
  EXPECT_EQ(device_->queue_sizes().size(), 3u);
}

TEST_F(VsockTest, HostConnectsToGuest) {
  auto stream = connect_to_guest(52);
  write_text(stream.socket, "hello guest");
  const auto data = expect(Operation::data);
  EXPECT_EQ(data.payload, "hello guest");
  EXPECT_EQ(data.header.target_port, 52u);
  send(header(Operation::data, 52, stream.host_port), "hello host");
  EXPECT_EQ(read_some(stream.socket, 10), "hello host");
  EXPECT_EQ(device_->statistics().connections, 1u);
}

TEST_F(VsockTest, BytesBehindTheFirstLineAreForTheGuest) {
  UniqueFd socket = std::move(connect_unix(path_).value());
  write_text(socket, "CONN");
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  write_text(socket, "ECT 7\nearly");
  const auto request = expect(Operation::request);
  expect_silence();
  send(header(Operation::response, 7, request.header.source_port));
  EXPECT_EQ(expect(Operation::data).payload, "early");
}

TEST_F(VsockTest, WrongFirstLinesAreCutOff) {
  for (const auto* line : {"HELLO\n", "CONNECT x\n", "CONNECT 4294967295\n", "CONNECT\n", "\n",
                           "CONNECT 00000000000000000000000000001\n"}) {
    UniqueFd socket = std::move(connect_unix(path_).value());
    write_text(socket, line);
    EXPECT_TRUE(ended(socket)) << line;
  }
  expect_silence();
}

TEST_F(VsockTest, PortsThatNobodyListensAt) {
  UniqueFd socket = std::move(connect_unix(path_).value());
  write_text(socket, "CONNECT 9\n");
  const auto request = expect(Operation::request);
  send(header(Operation::reset, 9, request.header.source_port));
  EXPECT_TRUE(ended(socket));
  send(header(Operation::request, 1000, 77));
  EXPECT_EQ(expect(Operation::reset).header.source_port, 77u);
  EXPECT_EQ(device_->statistics().connections, 0u);
}

TEST_F(VsockTest, GuestConnectsToHost) {
  const auto listener = listen(80);
  auto stream = connect_to_host(listener, 1000, 80);
  ASSERT_TRUE(stream.socket);
  send(header(Operation::data, 1000, 80), "request");
  EXPECT_EQ(read_some(stream.socket, 7), "request");
  write_text(stream.socket, "answer");
  EXPECT_EQ(expect(Operation::data).payload, "answer");
}

TEST_F(VsockTest, MegabytesToTheGuest) {
  auto stream = connect_to_guest(1);
  const auto sent = pattern(5u << 20, 1);
  std::thread writer([&] { write_text(stream.socket, sent); });
  std::string received;
  std::uint32_t told = 0;
  while (received.size() < sent.size()) {
    const auto packet = receive();
    ASSERT_TRUE(packet) << "stuck after " << received.size();
    if (packet->header.operation == Operation::credit_request) {
      send(header(Operation::credit_update, 1, stream.host_port));
      continue;
    }
    ASSERT_EQ(static_cast<int>(packet->header.operation), static_cast<int>(Operation::data));
    received += packet->payload;
    forwarded_ = static_cast<std::uint32_t>(received.size());
    ASSERT_LE(received.size() - told, credit_) << "more than the credit";
    if (received.size() - told > credit_ / 2) {
      told = forwarded_;
      send(header(Operation::credit_update, 1, stream.host_port));
    }
  }
  writer.join();
  EXPECT_TRUE(received == sent);
}

TEST_F(VsockTest, MegabytesToTheHost) {
  auto stream = connect_to_guest(1);
  const auto sent = pattern(5u << 20, 2);
  std::string received;
  std::thread reader([&] { received = read_some(stream.socket, sent.size()); });
  std::uint32_t forwarded = 0;
  for (std::size_t at = 0; at < sent.size();) {
    const auto size = std::min<std::size_t>(20'000, sent.size() - at);
    while (at + size - forwarded > vsock::Connection::kBufferSize) {
      const auto update = expect(Operation::credit_update);
      ASSERT_NE(update.header.forwarded, forwarded) << "no progress";
      forwarded = update.header.forwarded;
    }
    send(header(Operation::data, 1, stream.host_port), sent.substr(at, size));
    at += size;
  }
  reader.join();
  EXPECT_TRUE(received == sent);
}

TEST_F(VsockTest, StopsAtTheGuestsCredit) {
  credit_ = 1000;
  auto stream = connect_to_guest(1);
  write_text(stream.socket, pattern(1500, 3));
  EXPECT_EQ(expect(Operation::data).payload.size(), 1000u);
  expect(Operation::credit_request);
  expect_silence();
  forwarded_ = 200;
  send(header(Operation::credit_update, 1, stream.host_port));
  EXPECT_EQ(expect(Operation::data).payload.size(), 200u);
  expect(Operation::credit_request);
  forwarded_ = 1200;
  send(header(Operation::credit_request, 1, stream.host_port));
  EXPECT_EQ(expect(Operation::data).payload.size(), 300u);
}

TEST_F(VsockTest, AGuestThatExceedsItsCreditIsReset) {
  auto stream = connect_to_guest(1);
  // The host does not read: first its socket fills, then the device's buffer.
  const std::string chunk(64'000, 'x');
  bool reset = false;
  for (int i = 0; i < 64 && !reset; ++i) {
    send(header(Operation::data, 1, stream.host_port), chunk);
    while (const auto packet = receive(std::chrono::milliseconds(1))) {
      reset = reset || packet->header.operation == Operation::reset;
    }
  }
  EXPECT_TRUE(reset);
  EXPECT_EQ(device_->statistics().connections, 0u);
}

TEST_F(VsockTest, CreditUpdatesFollowTheHostsReading) {
  auto stream = connect_to_guest(1);
  std::size_t sent = 0;
  std::uint32_t forwarded = 0;
  const std::string chunk(16'000, 'x');
  // Until the guest's credit is used up.
  while (sent + chunk.size() - forwarded <= vsock::Connection::kBufferSize) {
    send(header(Operation::data, 1, stream.host_port), chunk);
    sent += chunk.size();
    while (const auto packet = receive(std::chrono::milliseconds(5))) {
      ASSERT_EQ(static_cast<int>(packet->header.operation),
                static_cast<int>(Operation::credit_update));
      forwarded = packet->header.forwarded;
    }
  }
  expect_silence();
  EXPECT_EQ(read_some(stream.socket, sent).size(), sent);
  while (forwarded != sent) {
    send(header(Operation::credit_request, 1, stream.host_port));
    const auto update = expect(Operation::credit_update);
    ASSERT_GE(update.header.forwarded, forwarded);
    forwarded = update.header.forwarded;
  }
}

TEST_F(VsockTest, HostEndsItsSide) {
  auto stream = connect_to_guest(1);
  write_text(stream.socket, "last words");
  ::shutdown(stream.socket.get(), SHUT_WR);
  EXPECT_EQ(expect(Operation::data).payload, "last words");
  EXPECT_EQ(expect(Operation::shutdown).header.flags, vsock::kShutdownSend);
  // The other direction goes on.
  send(header(Operation::data, 1, stream.host_port), "reply");
  EXPECT_EQ(read_some(stream.socket, 5), "reply");
  stream.socket.reset();
  EXPECT_EQ(expect(Operation::shutdown).header.flags, vsock::kShutdownBoth);
  send(header(Operation::reset, 1, stream.host_port));
  EXPECT_EQ(device_->statistics().connections, 0u);
}

TEST_F(VsockTest, HostWritesAndCloses) {
  auto stream = connect_to_guest(1);
  write_text(stream.socket, "all there is");
  stream.socket.reset();
  EXPECT_EQ(expect(Operation::data).payload, "all there is");
  EXPECT_EQ(expect(Operation::shutdown).header.flags, vsock::kShutdownBoth);
  send(header(Operation::reset, 1, stream.host_port));
  expect_silence();
  EXPECT_EQ(device_->statistics().connections, 0u);
}

TEST_F(VsockTest, GuestEndsItsSideThenAll) {
  auto stream = connect_to_guest(1);
  send(header(Operation::data, 1, stream.host_port), "bye");
  auto shutdown = header(Operation::shutdown, 1, stream.host_port);
  shutdown.flags = vsock::kShutdownSend;
  send(shutdown);
  EXPECT_EQ(read_some(stream.socket, 3), "bye");
  EXPECT_TRUE(ended(stream.socket));
  write_text(stream.socket, "still here");
  EXPECT_EQ(expect(Operation::data).payload, "still here");
  shutdown.flags = vsock::kShutdownBoth;
  send(shutdown);
  expect(Operation::reset);
  EXPECT_EQ(device_->statistics().connections, 0u);
}

TEST_F(VsockTest, DataBehindTheGuestsEndIsRefused) {
  auto stream = connect_to_guest(1);
  auto shutdown = header(Operation::shutdown, 1, stream.host_port);
  shutdown.flags = vsock::kShutdownSend;
  send(shutdown);
  send(header(Operation::data, 1, stream.host_port), "more");
  expect(Operation::reset);
  EXPECT_TRUE(ended(stream.socket));
}

TEST_F(VsockTest, GuestResets) {
  auto stream = connect_to_guest(1);
  send(header(Operation::data, 1, stream.host_port), "final");
  send(header(Operation::reset, 1, stream.host_port));
  EXPECT_EQ(read_some(stream.socket, 100), "final");
  expect_silence();
  EXPECT_EQ(device_->statistics().connections, 0u);
}

TEST_F(VsockTest, HostDiesWhileTheGuestSends) {
  auto stream = connect_to_guest(1);
  stream.socket.reset();
  EXPECT_EQ(expect(Operation::shutdown).header.flags, vsock::kShutdownBoth);
  send(header(Operation::data, 1, stream.host_port), "to nobody");
  expect(Operation::reset);
  EXPECT_EQ(device_->statistics().connections, 0u);
}

TEST_F(VsockTest, HostDiesBeforeTheGuestAnswers) {
  UniqueFd socket = std::move(connect_unix(path_).value());
  write_text(socket, "CONNECT 5\n");
  const auto request = expect(Operation::request);
  socket.reset();
  expect(Operation::reset);
  send(header(Operation::response, 5, request.header.source_port));
  expect(Operation::reset);
}

TEST_F(VsockTest, ManyConnections) {
  constexpr std::uint32_t kCount = 300;
  std::vector<Stream> streams;
  for (std::uint32_t i = 0; i < kCount; ++i) streams.push_back(connect_to_guest(i));
  EXPECT_EQ(device_->statistics().connections, kCount);
  for (auto& stream : streams) write_text(stream.socket, std::to_string(stream.guest_port));
  for (std::uint32_t i = 0; i < kCount; ++i) {
    const auto data = expect(Operation::data);
    EXPECT_EQ(data.payload, std::to_string(data.header.target_port));
  }
  for (auto& stream : streams) {
    send(header(Operation::data, stream.guest_port, stream.host_port),
         std::to_string(stream.guest_port));
  }
  for (auto& stream : streams) {
    const auto expected = std::to_string(stream.guest_port);
    EXPECT_EQ(read_some(stream.socket, expected.size()), expected);
  }
  for (auto& stream : streams) stream.socket.reset();
  for (std::uint32_t i = 0; i < kCount; ++i) expect(Operation::shutdown);
  for (auto& stream : streams) {
    send(header(Operation::reset, stream.guest_port, stream.host_port));
  }
  EXPECT_EQ(device_->statistics().connections, 0u);
}

TEST_F(VsockTest, ConnectionsBeyondTheMostWait) {
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  constexpr rlim_t kNeeded = 2 * VsockDevice::kMaxConnections + 100;
  if (limit.rlim_max < kNeeded) GTEST_SKIP() << "only " << limit.rlim_max << " descriptors here";
  limit.rlim_cur = std::max(limit.rlim_cur, kNeeded);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  std::vector<UniqueFd> sockets;
  for (std::size_t i = 0; i < VsockDevice::kMaxConnections; ++i) {
    sockets.push_back(std::move(connect_unix(path_).value()));
  }
  UniqueFd late = std::move(connect_unix(path_).value());
  write_text(late, "CONNECT 1\n");
  expect_silence();
  sockets.resize(sockets.size() - 10);
  EXPECT_EQ(expect(Operation::request).header.target_port, 1u);
}

TEST_F(VsockTest, GarbagePackets) {
  auto stream = connect_to_guest(1);
  // Not of this guest: dropped.
  auto packet = header(Operation::data, 1, stream.host_port);
  packet.source_cid = 99;
  send(packet, "x");
  // Longer than it is: dropped.
  packet = header(Operation::data, 1, stream.host_port);
  packet.length = 100;
  tx_.add({readable_struct(packet), readable("short")});
  tx_.kick();
  ASSERT_TRUE(tx_.wait_used());
  expect_silence();
  // Not for this host, of a kind that is unknown, of no connection: reset.
  packet = header(Operation::request, 1, 80);
  packet.target_cid = 5;
  send(packet);
  EXPECT_EQ(expect(Operation::reset).header.source_cid, 5u);
  packet = header(Operation::request, 2, 80);
  packet.type = 7;
  send(packet);
  EXPECT_EQ(expect(Operation::reset).header.type, 7);
  send(header(Operation::data, 4000, 4000), "x");
  expect(Operation::reset);
  send(header(Operation::reset, 4000, 4000));
  expect_silence();
  // The connection is as it was.
  send(header(Operation::data, 1, stream.host_port), "fine");
  EXPECT_EQ(read_some(stream.socket, 4), "fine");
  // An operation that does not exist ends it.
  packet = header(static_cast<Operation>(42), 1, stream.host_port);
  send(packet);
  expect(Operation::reset);
}

TEST_F(VsockTest, AFloodOfGarbageWaitsForItsReplies) {
  for (int i = 0; i < 100; ++i) send(header(Operation::data, 9, 9), "x");
  unsigned replies = 0;
  while (replies < 100 && receive()) ++replies;
  EXPECT_EQ(replies, 100u);
  // Now more than the driver has buffers for, without taking replies.
  for (int i = 0; i < 250; ++i) tx_.add({readable_struct(header(Operation::data, 9, 9))});
  tx_.kick();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  for (int i = 0; i < 250; ++i) {
    tx_.add({readable_struct(header(Operation::data, 9, 9))});
    tx_.kick();
    while (replies < 100u + static_cast<unsigned>(i) && receive(std::chrono::milliseconds(200))) {
      ++replies;
    }
  }
  while (replies < 600 && receive()) ++replies;
  EXPECT_EQ(replies, 600u);
}

// A guest that takes no replies is not heard beyond those that its receive ring would hold.
TEST_F(VsockWithoutRoomTest, AFloodOfGarbageIsBounded) {
  constexpr unsigned kMostReplies = 256;
  const auto garbage = tx_.add({readable_struct(header(Operation::data, 9, 9))});
  tx_.kick();
  for (unsigned i = 0; i < kMostReplies; ++i) {
    ASSERT_TRUE(tx_.wait_used()) << i;
    tx_.offer(garbage);
    tx_.kick();
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(tx_.poll_used()) << "one more";
  EXPECT_EQ(device_->statistics().rx_waiting, kMostReplies);
}

// A guest that connects and resets without taking packets: what waits for it belongs to
// connections.
TEST_F(VsockWithoutRoomTest, AFloodOfConnectionsThatEndLeavesNothing) {
  const auto listener = listen(80);
  constexpr unsigned kRounds = 3000;
  const auto request = tx_.add({readable_struct(header(Operation::request, 1000, 80))});
  const auto reset = tx_.add({readable_struct(header(Operation::reset, 1000, 80))});
  for (unsigned round = 0; round < kRounds; ++round) {
    if (round > 0) {
      tx_.offer(request);
      tx_.offer(reset);
    }
    tx_.kick();
    ASSERT_TRUE(tx_.wait_used());
    ASSERT_TRUE(tx_.wait_used());
    ASSERT_TRUE(listener.accept());
  }
  EXPECT_LE(device_->statistics().rx_waiting, 1u);
  EXPECT_EQ(device_->statistics().connections, 0u);
  // A connection that is there has its packet waiting, however often it is written to.
  send(header(Operation::request, 2000, 80));
  const auto socket = listener.accept();
  const auto data = tx_.add({readable_struct(header(Operation::credit_request, 2000, 80))});
  for (unsigned round = 0; round < kRounds; ++round) {
    if (round > 0) tx_.offer(data);
    tx_.kick();
    ASSERT_TRUE(tx_.wait_used());
  }
  EXPECT_LE(device_->statistics().rx_waiting, 1u);
  rx_.add({writable(4096)});
  rx_.kick();
  EXPECT_EQ(expect(Operation::response).header.target_port, 2000u);
}

TEST_F(VsockTest, NeedsResetOnBadChains) {
  const auto try_out = [&](auto offer) {
    GuestRam ram;
    test::TestInterrupts interrupts;
    DriverQueue rx(ram, 8), tx(ram, 8), events(ram, 8);
    (void)device_->deactivate();
    EXPECT_TRUE(
        device_->activate(test::activation_of(ram.memory(), 0, {&rx, &tx, &events}, interrupts)));
    offer(rx, tx);
    rx.kick();
    tx.kick();
    EXPECT_TRUE(interrupts.wait_needs_reset());
    (void)device_->deactivate();
    return interrupts.reason();
  };
  using Q = DriverQueue&;
  const auto request = readable_struct(header(Operation::data, 9, 9));
  EXPECT_NE(try_out([](Q, Q tx) { tx.add({readable("tiny")}); }).find("no vsock packet"),
            std::string::npos);
  EXPECT_NE(try_out([](Q, Q tx) { tx.add({writable(100)}); }).find("no vsock packet"),
            std::string::npos);
  EXPECT_NE(try_out([](Q, Q tx) { tx.offer(99); }).find("outside"), std::string::npos);
  EXPECT_NE(try_out([&](Q rx, Q tx) {
              rx.add({writable(44)});
              tx.add({request});
            }).find("holds no vsock packet"),
            std::string::npos);
  EXPECT_NE(try_out([&](Q rx, Q tx) {
              rx.add({readable("x")});
              tx.add({request});
            }).find("holds no vsock packet"),
            std::string::npos);
}

TEST_F(VsockTest, ResetEndsConnectionsAndNewOnesWaitForTheDriver) {
  auto stream = connect_to_guest(1);
  auto queues = device_->deactivate();
  ASSERT_EQ(queues.size(), 3u);
  EXPECT_EQ(queues[0]->in_flight() + queues[1]->in_flight(), 0u);
  EXPECT_TRUE(ended(stream.socket));
  UniqueFd early = std::move(connect_unix(path_).value());
  write_text(early, "CONNECT 8\n");
  DriverQueue rx(ram_, 256), tx(ram_, 256);
  for (int i = 0; i < 10; ++i) rx.add({writable(4096)});
  ASSERT_TRUE(
      device_->activate(test::activation_of(ram_.memory(), 0, {&rx, &tx, nullptr}, interrupts_)));
  const auto used = rx.wait_used();
  ASSERT_TRUE(used);
  PacketHeader request;
  std::memcpy(&request, rx.text(used->head, 0).data(), sizeof request);
  EXPECT_EQ(request.target_port, 8u);
  (void)device_->deactivate();  // before its kicks go
}

TEST_F(VsockTest, TransportResetIsTold) {
  auto stream = connect_to_guest(1);
  device_->transport_reset();
  EXPECT_TRUE(ended(stream.socket));
  events_.add({writable(4)});
  events_.kick();
  const auto used = events_.wait_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->written, 4u);
  EXPECT_EQ(events_.text(used->head, 0), std::string(4, 0));
}

// What reaches the guest before its driver has ended its connections is ended with them.
TEST_F(VsockTest, ConnectionsWaitUntilTheDriverHasHeardOfAReset) {
  for (int i = 0; i < 8; ++i) events_.add({writable(4)});
  events_.kick();
  const auto stream = connect_to_guest(1);
  std::vector<UniqueFd> earlies;  // the end of one would be told as well
  for (std::uint32_t round = 0; round < 6; ++round) {
    SCOPED_TRACE(round);
    device_->transport_reset();
    ASSERT_TRUE(events_.wait_used());
    earlies.push_back(std::move(connect_unix(path_).value()));
    write_text(earlies.back(), "CONNECT 8\n");
    send(header(Operation::request, 1024, 7));  // the guest's own are refused as ever
    expect(Operation::reset);
    events_.add({writable(4)});
    ASSERT_TRUE(events_.wants_kick());
    events_.kick();
    EXPECT_EQ(expect(Operation::request).header.target_port, 8u) << "and nothing before it";
  }
}

// Its event may have no room for long: the driver has not heard of it then either.
TEST_F(VsockTest, ConnectionsWaitForAResetThatCannotBeToldYet) {
  device_->transport_reset();
  const UniqueFd early = std::move(connect_unix(path_).value());
  write_text(early, "CONNECT 8\n");
  expect_silence();
  events_.add({writable(4)});
  events_.kick();
  ASSERT_TRUE(events_.wait_used()) << "the driver hears of it";
  events_.add({writable(4)});
  events_.kick();
  EXPECT_EQ(expect(Operation::request).header.target_port, 8u) << "it has done so";
}

// A guest that goes on in a copy holds ends of connections that the original's host made: one with
// the same two ports would be theirs, and be refused.
TEST_F(VsockTest, ACopyHasOtherPorts) {
  std::set<std::uint32_t> ports;
  for (int copy = 0; copy < 20; ++copy) {
    (void)device_->deactivate();
    device_.reset();
    device_ = std::move(VsockDevice::create({.cid = kCid, .path = path_}, worker_->loop()).value());
    GuestRam ram;
    DriverQueue rx(ram, 8), tx(ram, 8), events(ram, 8);
    ASSERT_TRUE(
        device_->activate(test::activation_of(ram.memory(), 0, {&rx, &tx, &events}, interrupts_)));
    rx.add({writable(4096)});
    rx.kick();
    const UniqueFd socket = std::move(connect_unix(path_).value());
    write_text(socket, "CONNECT 1\n");
    const auto used = rx.wait_used();
    ASSERT_TRUE(used);
    PacketHeader request;
    std::memcpy(&request, rx.text(used->head, 0).data(), sizeof request);
    EXPECT_GE(request.source_port, 1u << 30);
    EXPECT_TRUE(ports.insert(request.source_port).second) << request.source_port;
    (void)device_->deactivate();
  }
}

TEST_F(VsockTest, AnotherPathOrNone) {
  const auto make = [this](const std::string& path) {
    auto change = device_->prepare({.cid = kCid, .path = path});
    ASSERT_TRUE(change) << change.error().message();
    auto queues = device_->suspend();
    ASSERT_TRUE((*change)->make());
    ASSERT_TRUE(device_->activate(
        resumption(std::move(queues), kFeatureEventIdx, {&rx_, &tx_, &events_}, interrupts_)));
  };
  const auto stream = connect_to_guest(1);
  events_.add({writable(4)});
  events_.kick();
  const auto other = folder_ + "/other";
  make(other);
  EXPECT_TRUE(events_.wait_used()) << "its connections are gone";
  EXPECT_TRUE(ended(stream.socket));
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_TRUE(connect_unix(other));
  make("");
  EXPECT_FALSE(std::filesystem::exists(other));
  send(header(Operation::request, 1024, 7));
  expect(Operation::reset);
  make(path_);
  for (int i = 0; i < 2; ++i) {  // the driver hears of it, and has done so
    events_.add({writable(4)});
    events_.kick();
    if (i == 0) {
      ASSERT_TRUE(events_.wait_used());
    }
  }
  (void)connect_to_guest(2);
  EXPECT_FALSE(device_->prepare({.cid = kCid, .path = path_})) << "somebody listens there";
}

TEST_F(VsockTest, ThePathIsItsOwn) {
  struct stat status;
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  const auto second = VsockDevice::create({.cid = 4, .path = path_}, worker_->loop());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().message(),
            fmt::format("socket '{}' is in use by another process", path_));
}

class VsockHarness : public DeviceHarness {
 public:
  VsockHarness() {
    char folder[] = "/tmp/vsock-test-XXXXXX";
    EXPECT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    worker_ = std::move(Worker::start("vsock").value());
    device_ = std::move(
        VsockDevice::create({.cid = kCid, .path = folder_ + "/vsock"}, worker_->loop()).value());
  }
  ~VsockHarness() override {
    device_.reset();
    std::filesystem::remove_all(folder_);
  }
  Device& device() override { return *device_; }
  QueueHandling handling(std::size_t queue) const override {
    return queue == 1 ? QueueHandling::answers : QueueHandling::ignores;
  }

 private:
  std::string folder_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<VsockDevice> device_;
};

INSTANTIATE_TEST_SUITE_P(Vsock, DeviceSuite,
                         ::testing::Values(DeviceKind{
                             "vsock", [] { return std::make_unique<VsockHarness>(); }}),
                         DeviceKind::test_name);

TEST(VsockConfigTest, Parses) {
  const auto config = parse_vsock_config("/run/vm.sock,cid=7");
  ASSERT_TRUE(config);
  EXPECT_EQ(config->path, "/run/vm.sock");
  EXPECT_EQ(config->cid, 7u);
  EXPECT_EQ(parse_vsock_config("path=x")->cid, 3u);
  EXPECT_EQ(
      parse_vsock_config("x,cid=2").error().message(),
      "vsock 'x,cid=2': cid: invalid value '2': expected a whole number from 3 to 4294967294");
  EXPECT_EQ(parse_vsock_config("x,cd=5").error().message(),
            "vsock 'x,cd=5': unknown key 'cd' (did you mean 'cid'?)");
  EXPECT_EQ(parse_vsock_config("cid=9")->path, "") << "nobody answers";
  EXPECT_EQ(parse_vsock_config("cid=9,/run/v")->path, "/run/v");
  EXPECT_FALSE(parse_vsock_config("/run/v,/run/w"));
  EXPECT_FALSE(parse_vsock_config(std::string(97, 'x')));
  EXPECT_FALSE(parse_vsock_config(""));
}

}  // namespace
}  // namespace vmm::virtio
