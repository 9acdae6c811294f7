#include "devices/virtio/net/net_device.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "devices/backend/net/socket_backend.h"
#include "devices/virtio/device_suite_test.h"
#include "src/base/json.h"
#include "src/user_net/virtio_net.h"
#include "src/user_net/wire.h"
#include "tests/support/virtio_driver.h"

namespace vmm::virtio {
namespace {

using test::DriverQueue;
using test::GuestRam;
using test::readable;
using test::readable_struct;
using test::writable;
using virtio_net::Header;

constexpr std::uint64_t kBase = virtio_net::kCtrlVq | virtio_net::kStatus;
constexpr std::size_t kHeaderSize = sizeof(Header);

std::string header_bytes(const Header& header = {}) {
  return std::string(reinterpret_cast<const char*>(&header), sizeof header);
}

// `size` bytes of an Ethernet frame that tell themselves apart.
std::string frame_of(std::size_t size, char seed = 1) {
  std::string frame(size, 0);
  for (std::size_t i = 0; i < size; ++i)
    frame[i] = static_cast<char>(i * 7 + i / 251 + static_cast<unsigned char>(seed));
  return frame;
}

// A device over one end of a socket pair; the test is the network process at the other end.
class NetDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override { SetUpOver<net::SocketBackend>(); }
  template <typename Backend>
  void SetUpOver(std::unique_ptr<net::VhostNet> vhost = nullptr) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    network_ = UniqueFd(ends[1]);
    const user_net::Hello hello;
    ASSERT_EQ(::send(network_.get(), &hello, sizeof hello, 0), ssize_t{sizeof hello});
    auto backend = std::make_unique<Backend>(UniqueFd(ends[0]));
    backend_ = backend.get();
    device_ = std::make_unique<NetDevice>(
        NetDevice::Parts{.name = "net0",
                         .mac = net::MacAddress::parse("52:54:00:12:34:56").value(),
                         .mtu = std::nullopt,
                         .backend = std::move(backend),
                         .vhost = std::move(vhost)},
        ram_.memory());
  }
  void TearDown() override {
    if (device_) {
      const auto queues = device_->deactivate();
      for (const auto& queue : queues) {
        if (!queue || interrupts_.is_reset_needed()) continue;
        EXPECT_EQ(queue->in_flight(), 0u);
      }
    }
  }

  void activate(std::uint64_t features = kBase) {
    ASSERT_TRUE(device_->activate(
        test::activation_of(ram_.memory(), features, {&rx_, &tx_, &control_}, interrupts_)));
    const auto control = from_device();  // what was negotiated
    ASSERT_EQ(control.size(), sizeof(user_net::Control));
  }
  std::string from_device() {
    std::string message(net::kMaxFrame, 0);
    pollfd entry{network_.get(), POLLIN, 0};
    if (::poll(&entry, 1, 10'000) <= 0) return "nothing came";
    const ssize_t n = ::recv(network_.get(), message.data(), message.size(), 0);
    message.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    return message;
  }
  void to_device(const std::string& frame, const Header& header = {}) {
    const auto message = header_bytes(header) + frame;
    ASSERT_EQ(::send(network_.get(), message.data(), message.size(), 0), ssize_t(message.size()));
  }
  Header received_header(std::uint16_t head) {
    Header header;
    std::memcpy(&header, rx_.text(head, 0).data(), sizeof header);
    return header;
  }
  std::uint8_t command(const std::string& bytes) {
    const auto head = control_.add({readable(bytes), writable(1)});
    control_.kick();
    EXPECT_TRUE(control_.wait_used());
    return static_cast<std::uint8_t>(control_.text(head, 1)[0]);
  }
  template <typename Condition>
  static bool eventually(Condition condition) {
    for (int i = 0; i < 2000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

  GuestRam ram_{64u << 20};
  test::TestInterrupts interrupts_;
  DriverQueue rx_{ram_, 256};
  DriverQueue tx_{ram_, 256};
  DriverQueue control_{ram_, 64};
  UniqueFd network_;
  net::NetBackend* backend_ = nullptr;  // the device's
  std::unique_ptr<NetDevice> device_;
};

TEST_F(NetDeviceTest, ConfigurationSpace) {
  std::array<std::byte, 14> config;
  config.fill(std::byte{0xff});
  device_->read_config(0, config);
  const std::array<std::byte, 14> expected = {
      std::byte{0x52}, std::byte{0x54}, std::byte{0}, std::byte{0x12}, std::byte{0x34},
      std::byte{0x56}, std::byte{1},    std::byte{0}, std::byte{1},    std::byte{0},
      std::byte{0xdc}, std::byte{5},    std::byte{0}, std::byte{0}};
  EXPECT_EQ(config, expected);
  EXPECT_EQ(device_->queue_sizes(), (std::vector<std::uint16_t>{256, 256, 64}));
  EXPECT_NE(device_->features() & virtio_net::kMac, 0u);
  EXPECT_EQ(device_->features() & virtio_net::kMq, 0u) << "one pair only";
}

TEST_F(NetDeviceTest, Transmits) {
  activate();
  const auto frame = frame_of(100);
  const auto head = tx_.add(
      {readable(header_bytes()), readable(frame.substr(0, 30)), readable(frame.substr(30))});
  tx_.kick();
  EXPECT_EQ(from_device(), header_bytes() + frame);
  const auto used = tx_.wait_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->head, head);
  EXPECT_EQ(used->written, 0u);
  EXPECT_TRUE(interrupts_.wait_queue_used(1));
  EXPECT_EQ(device_->statistics().tx_packets, 1u);
  EXPECT_EQ(device_->statistics().tx_bytes, 100u);
}

TEST_F(NetDeviceTest, TransmitsLargeSegmentsWithTheirHeaders) {
  activate(kBase | virtio_net::kCsum | virtio_net::kHostTso4 | kFeatureIndirectDescriptors);
  const Header header{.flags = virtio_net::kNeedsCsum,
                      .gso_type = virtio_net::kGsoTcp4,
                      .hdr_len = 54,
                      .gso_size = 1460,
                      .csum_start = 34,
                      .csum_offset = 16};
  const auto frame = frame_of(65000);
  tx_.add_indirect({readable(header_bytes(header) + frame.substr(0, 1000)),
                    readable(frame.substr(1000, 32000)), readable(frame.substr(33000))});
  tx_.kick();
  EXPECT_EQ(from_device(), header_bytes(header) + frame);
}

// As the host's kernel takes no queue of a tap that somebody has removed.
TEST_F(NetDeviceTest, ServesWhatVhostDoesNotTake) {
  std::vector<UniqueFd> devices;
  devices.push_back(open_file("/dev/null", O_RDWR).value());  // knows none of the requests
  SetUpOver<net::SocketBackend>(std::make_unique<net::VhostNet>(
      std::move(devices), std::move(EventFd::create().value()), kFeatureEventIdx));
  EXPECT_TRUE(device_->statistics().vhost);
  activate(kBase | kFeatureEventIdx);
  EXPECT_FALSE(device_->statistics().vhost);
  tx_.add({readable(header_bytes() + frame_of(60))});
  tx_.kick();
  EXPECT_EQ(from_device(), header_bytes() + frame_of(60));
  const auto head = rx_.add({writable(2000)});
  rx_.kick();
  to_device(frame_of(90));
  ASSERT_TRUE(rx_.wait_used());
  EXPECT_EQ(rx_.text(head, 0).substr(kHeaderSize, 90), frame_of(90));
  EXPECT_EQ(device_->statistics().rx_packets, 1u);
  EXPECT_FALSE(interrupts_.is_reset_needed()) << interrupts_.reason();
}

TEST_F(NetDeviceTest, KeepsOrderOverManyFrames) {
  activate(kBase | kFeatureEventIdx);
  for (int i = 0; i < 200; ++i) {
    tx_.add({readable(header_bytes() + frame_of(60, static_cast<char>(i)))});
  }
  tx_.kick();
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(from_device(), header_bytes() + frame_of(60, static_cast<char>(i))) << i;
  }
}

TEST_F(NetDeviceTest, WaitsForAFullSocket) {
  activate();
  // More than a socket's buffer holds.
  constexpr int kFrames = 200;
  const auto frame = frame_of(40'000);
  for (int i = 0; i < kFrames; ++i) tx_.add({readable(header_bytes() + frame)});
  tx_.kick();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LT(tx_.used_index(), kFrames) << "the backend took everything at once";
  for (int i = 0; i < kFrames; ++i) ASSERT_EQ(from_device().size(), kHeaderSize + frame.size());
  EXPECT_TRUE(eventually([&] { return tx_.used_index() == kFrames; }));
  EXPECT_EQ(device_->statistics().tx_dropped, 0u);
}

TEST_F(NetDeviceTest, FramesOfImpossibleSizesAreDropped) {
  activate();
  tx_.add({readable(header_bytes() + frame_of(60, 1))});
  tx_.add({readable(header_bytes() + "short")});  // might pass for a control message
  tx_.add({readable(header_bytes() + frame_of(60, 2))});
  tx_.add({readable(header_bytes() + frame_of(70'000))});
  tx_.add({readable(header_bytes() + frame_of(60, 3))});
  tx_.kick();
  for (const char seed : {'\1', '\2', '\3'})
    EXPECT_EQ(from_device(), header_bytes() + frame_of(60, seed));
  EXPECT_TRUE(eventually([&] { return tx_.used_index() == 5; }));
  EXPECT_EQ(device_->statistics().tx_dropped, 2u);
}

TEST_F(NetDeviceTest, Receives) {
  activate();
  const auto head = rx_.add({writable(12), writable(2000)});
  rx_.kick();
  to_device(frame_of(100), {.flags = virtio_net::kDataValid});
  const auto used = rx_.wait_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->head, head);
  EXPECT_EQ(used->written, kHeaderSize + 100);
  EXPECT_EQ(rx_.text(head, 1).substr(0, 100), frame_of(100));
  EXPECT_EQ(received_header(head).num_buffers, 1);
  EXPECT_EQ(received_header(head).flags, virtio_net::kDataValid);
  EXPECT_TRUE(interrupts_.wait_queue_used(0));
  EXPECT_EQ(device_->statistics().rx_packets, 1u);
}

// Often, as what it looks for is a moment: the driver sees a frame, and the counters do not yet.
TEST_F(NetDeviceTest, CountersAreNeverBehindTheGuest) {
  constexpr std::uint64_t kLives = 10, kFrames = 200;
  std::uint64_t received = 0;
  for (std::uint64_t life = 0; life < kLives; ++life) {
    DriverQueue rx(ram_, 256), tx(ram_, 256), control(ram_, 64);
    ASSERT_TRUE(device_->activate(
        test::activation_of(ram_.memory(), kBase, {&rx, &tx, &control}, interrupts_)));
    (void)from_device();  // what was negotiated
    for (std::uint64_t i = 1; i <= kFrames; ++i) {
      rx.add({writable(2000)});
      rx.kick();
      to_device(frame_of(100));
      while (rx.used_index() != i) {
      }
      ASSERT_EQ(device_->statistics().rx_packets, ++received);
      ASSERT_EQ(device_->statistics().rx_bytes, received * 100);
    }
    (void)device_->deactivate();
  }
}

TEST_F(NetDeviceTest, FramesWaitUntilThereAreBuffers) {
  activate();
  to_device(frame_of(100, 1));
  to_device(frame_of(100, 2));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  for (const char seed : {'\1', '\2'}) {
    const auto head = rx_.add({writable(2000)});
    rx_.kick();
    ASSERT_TRUE(rx_.wait_used());
    EXPECT_EQ(rx_.text(head, 0).substr(kHeaderSize, 100), frame_of(100, seed));
  }
}

TEST_F(NetDeviceTest, MergesBuffers) {
  activate(kBase | virtio_net::kMrgRxbuf | virtio_net::kGuestCsum | virtio_net::kGuestTso4);
  std::vector<std::uint16_t> heads;
  for (int i = 0; i < 60; ++i) heads.push_back(rx_.add({writable(1536)}));
  rx_.kick();
  const auto frame = frame_of(40'000);
  to_device(frame, {.gso_type = virtio_net::kGsoTcp4});
  to_device(frame_of(64));
  std::string received;
  const std::size_t expected = (kHeaderSize + frame.size() + 1535) / 1536;
  for (std::size_t i = 0; i < expected; ++i) {
    const auto used = rx_.wait_used();
    ASSERT_TRUE(used);
    ASSERT_EQ(used->head, heads[i]);
    received += rx_.text(used->head, 0).substr(0, used->written);
  }
  EXPECT_EQ(received.substr(kHeaderSize), frame);
  EXPECT_EQ(received_header(heads[0]).num_buffers, expected);
  EXPECT_EQ(received_header(heads[0]).gso_type, virtio_net::kGsoTcp4);
  const auto next = rx_.wait_used();
  ASSERT_TRUE(next);
  EXPECT_EQ(next->written, kHeaderSize + 64);
  EXPECT_EQ(received_header(next->head).num_buffers, 1);
}

TEST_F(NetDeviceTest, AFrameWaitsForTheRestOfItsBuffers) {
  activate(kBase | virtio_net::kMrgRxbuf | virtio_net::kGuestCsum | virtio_net::kGuestTso4);
  const auto first = rx_.add({writable(1000)});
  rx_.kick();
  const auto frame = frame_of(3500);
  to_device(frame);
  to_device(frame_of(64, 9));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(rx_.used_index(), 0) << "half a frame was delivered";
  std::vector<std::uint16_t> heads = {first};
  for (int i = 0; i < 5; ++i) {
    heads.push_back(rx_.add({writable(600), writable(400)}));
    rx_.kick();
  }
  std::string received;
  for (int i = 0; i < 4; ++i) {
    const auto used = rx_.wait_used();
    ASSERT_TRUE(used);
    received += (rx_.text(used->head, 0) + (i == 0 ? "" : rx_.text(used->head, 1)))
                    .substr(0, used->written);
  }
  EXPECT_EQ(received.substr(kHeaderSize), frame);
  EXPECT_EQ(received_header(first).num_buffers, 4);
  const auto next = rx_.wait_used();
  ASSERT_TRUE(next);
  EXPECT_EQ(rx_.text(next->head, 0).substr(kHeaderSize, 64), frame_of(64, 9));
}

TEST_F(NetDeviceTest, FramesThatNoBufferHoldsAreDropped) {
  activate();
  const auto head = rx_.add({writable(500)});
  rx_.kick();
  to_device(frame_of(1000, 1));
  to_device(frame_of(100, 2));
  const auto used = rx_.wait_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(rx_.text(head, 0).substr(kHeaderSize, 100), frame_of(100, 2));
  EXPECT_EQ(device_->statistics().rx_dropped, 1u);
}

TEST_F(NetDeviceTest, AFrameLargerThanTheWholeRingIsDropped) {
  DriverQueue small(ram_, 4);
  ASSERT_TRUE(device_->activate(test::activation_of(ram_.memory(), kBase | virtio_net::kMrgRxbuf,
                                                    {&small, &tx_, nullptr}, interrupts_)));
  for (int i = 0; i < 4; ++i) small.add({writable(1000)});
  small.kick();
  to_device(frame_of(5000));
  to_device(frame_of(100, 3));
  const auto used = small.wait_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->written, kHeaderSize + 100);
  EXPECT_EQ(device_->statistics().rx_dropped, 1u);
  (void)device_->deactivate();  // before its kicks go
}

TEST_F(NetDeviceTest, NeedsResetOnBadChains) {
  const auto try_out = [&](auto offer) {
    SetUp();
    GuestRam ram;
    test::TestInterrupts interrupts;
    DriverQueue rx(ram, 8), tx(ram, 8), control(ram, 8);
    NetDevice device(
        NetDevice::Parts{.name = "net1",
                         .mac = net::MacAddress::random(),
                         .mtu = std::nullopt,
                         .backend = [&]() -> std::unique_ptr<net::NetBackend> {
                           int ends[2];
                           EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
                           network_ = UniqueFd(ends[1]);
                           const user_net::Hello hello;
                           (void)!::send(ends[1], &hello, sizeof hello, 0);
                           return std::make_unique<net::SocketBackend>(UniqueFd(ends[0]));
                         }(),
                         .vhost = nullptr},
        ram.memory());
    EXPECT_TRUE(device.activate(
        test::activation_of(ram.memory(), kBase, {&rx, &tx, &control}, interrupts)));
    offer(rx, tx, control);
    rx.kick();
    tx.kick();
    control.kick();
    EXPECT_TRUE(interrupts.wait_needs_reset());
    // And leaves the rings alone from then on.
    const auto seen = tx.used_index();
    tx.add({readable(header_bytes() + frame_of(60))});
    tx.kick();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(tx.used_index(), seen);
    (void)device.deactivate();
    return interrupts.reason();
  };
  using Q = DriverQueue&;
  EXPECT_NE(try_out([](Q, Q tx, Q) { tx.add({writable(100)}); }).find("no frame"),
            std::string::npos);
  EXPECT_NE(try_out([](Q, Q tx, Q) { tx.add({readable("tiny")}); }).find("no frame"),
            std::string::npos);
  EXPECT_NE(try_out([](Q, Q tx, Q) { tx.offer(77); }).find("outside"), std::string::npos);
  EXPECT_NE(try_out([](Q rx, Q, Q) { rx.add({readable("in")}); }).find("holds no frame"),
            std::string::npos);
  EXPECT_NE(try_out([](Q rx, Q, Q) { rx.add({writable(11)}); }).find("holds no frame"),
            std::string::npos);
  EXPECT_NE(try_out([](Q, Q, Q control) { control.add({readable("abc")}); }).find("no command"),
            std::string::npos);
  EXPECT_NE(try_out([](Q, Q, Q control) { control.add({writable(1)}); }).find("no command"),
            std::string::npos);
}

TEST_F(NetDeviceTest, Commands) {
  activate(kBase | virtio_net::kCtrlMacAddr | virtio_net::kCtrlGuestOffloads |
           virtio_net::kGuestCsum | virtio_net::kGuestTso4);
  EXPECT_EQ(command(std::string("\4\0\2\0", 4)), 1) << "several pairs were not negotiated";
  EXPECT_EQ(command("\x01\x01\x52\x54\x00\x00\x00"), 1) << "no MAC address is that short";
  EXPECT_EQ(command(std::string("\1\1\x52\x54\0\0\0\7", 8)), 0);
  std::array<std::byte, 6> mac;
  device_->read_config(0, mac);
  EXPECT_EQ(mac[5], std::byte{7});
  EXPECT_EQ(command("\x09\x09"), 1);
  EXPECT_EQ(command(std::string("\5\0\2\0\0\0\0\0\0\0", 10)), 0) << "large segments off";
  user_net::Control control;
  const auto message = from_device();
  ASSERT_EQ(message.size(), sizeof control);
  std::memcpy(&control, message.data(), sizeof control);
  EXPECT_EQ(control.features, virtio_net::kGuestCsum);
  EXPECT_EQ(command(std::string("\5\0\0\1\0\0\0\0\0\0", 10)), 1) << "TSO6 was not negotiated";
}

TEST_F(NetDeviceTest, TheLinkGoesDownWithTheNetworkProcess) {
  activate();
  network_.reset();
  EXPECT_TRUE(interrupts_.wait_config_changed());
  EXPECT_FALSE(device_->statistics().link_up);
  std::array<std::byte, 2> status;
  device_->read_config(6, status);
  EXPECT_EQ(status[0], std::byte{0});
  // The guest can go on sending.
  for (int i = 0; i < 10; ++i) tx_.add({readable(header_bytes() + frame_of(60))});
  tx_.kick();
  EXPECT_TRUE(eventually([&] { return tx_.used_index() == 10; }));
  // And a guest that starts anew finds the cable unplugged.
  (void)device_->deactivate();
  EXPECT_TRUE(device_->activate(
      test::activation_of(ram_.memory(), kBase, {&rx_, &tx_, &control_}, interrupts_)));
}

// As a network process that is started again: the test has the new one's socket.
class ReturningBackend : public net::SocketBackend {
 public:
  using SocketBackend::SocketBackend;
  std::optional<std::chrono::milliseconds> retry_delay() override {
    return std::chrono::milliseconds(1);
  }
  Result<void> reopen() override {
    if (attempts++ == 0) return fail("not yet");
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    const user_net::Hello hello;
    EXPECT_EQ(::send(ends[1], &hello, sizeof hello, 0), ssize_t{sizeof hello});
    adopt(UniqueFd(ends[0]));
    other_end = ends[1];
    return wait_ready();
  }
  int attempts = 0;
  std::atomic<int> other_end{-1};
};

TEST_F(NetDeviceTest, TheLinkComesBackWithTheNetworkProcess) {
  SetUpOver<ReturningBackend>();
  auto& backend = dynamic_cast<ReturningBackend&>(*backend_);
  activate(kBase | virtio_net::kGuestCsum | virtio_net::kGuestTso4 |
           virtio_net::kCtrlGuestOffloads);
  for (int i = 0; i < 8; ++i) rx_.add({writable(1 << 16)});
  rx_.kick();
  EXPECT_EQ(command(std::string("\5\0\2\0\0\0\0\0\0\0", 10)), 0) << "large segments off";
  network_.reset();
  ASSERT_TRUE(interrupts_.wait_config_changed(2)) << "down, and up again";
  EXPECT_TRUE(device_->statistics().link_up);
  EXPECT_EQ(backend.attempts, 2);
  network_ = UniqueFd(backend.other_end.load());
  user_net::Control control;
  const auto message = from_device();
  ASSERT_EQ(message.size(), sizeof control);
  std::memcpy(&control, message.data(), sizeof control);
  EXPECT_EQ(control.features, virtio_net::kGuestCsum) << "as the guest has it, not as at first";
  to_device(frame_of(100));
  ASSERT_TRUE(rx_.wait_used());
  tx_.add({readable(header_bytes() + frame_of(60))});
  tx_.kick();
  EXPECT_EQ(from_device(), header_bytes() + frame_of(60));
}

TEST_F(NetDeviceTest, ANetworkThatEndedWhileNobodyLookedComesBack) {
  SetUpOver<ReturningBackend>();
  network_.reset();
  EXPECT_TRUE(device_->activate(
      test::activation_of(ram_.memory(), kBase, {&rx_, &tx_, &control_}, interrupts_)));
  ASSERT_TRUE(interrupts_.wait_config_changed());
  EXPECT_TRUE(device_->statistics().link_up);
  network_ = UniqueFd(dynamic_cast<ReturningBackend&>(*backend_).other_end.load());
}

// As a tap that is being deleted: its readers are woken, and read(2) fails a moment later without
// another word.
class DyingBackend : public net::SocketBackend {
 public:
  using SocketBackend::SocketBackend;
  net::ReceiveResult receive(unsigned, std::span<const iovec>) override {
    return {0, net::IoState::blocked};
  }
  bool is_gone(unsigned) const override { return true; }
};

TEST_F(NetDeviceTest, TheLinkGoesDownWithoutARefusedRead) {
  SetUpOver<DyingBackend>();
  activate();
  for (int i = 0; i < 8; ++i) rx_.add({writable(1 << 16)});
  rx_.kick();
  network_.reset();
  EXPECT_TRUE(interrupts_.wait_config_changed());
  EXPECT_FALSE(device_->statistics().link_up);
}

TEST_F(NetDeviceTest, TheLinkGoesDownWithoutARefusedReadNorBuffers) {
  SetUpOver<DyingBackend>();
  activate();
  network_.reset();
  EXPECT_TRUE(interrupts_.wait_config_changed());
  EXPECT_FALSE(device_->statistics().link_up);
}

TEST_F(NetDeviceTest, GivesItsQueuesBackInOrder) {
  activate(kBase | virtio_net::kMrgRxbuf);
  for (int i = 0; i < 8; ++i) rx_.add({writable(1000)});
  rx_.kick();
  to_device(frame_of(1500));
  ASSERT_TRUE(rx_.wait_used());
  ASSERT_TRUE(rx_.wait_used());
  auto queues = device_->deactivate();
  ASSERT_EQ(queues.size(), 3u);
  ASSERT_TRUE(queues[0] && queues[1] && queues[2]);
  EXPECT_EQ(queues[0]->next_avail(), 2) << "buffers that hold nothing are not lost";
  EXPECT_EQ(queues[0]->next_used(), 2);
  EXPECT_EQ(queues[0]->in_flight(), 0u);
}

TEST_F(NetDeviceTest, StopsUnderLoad) {
  for (int round = 0; round < 20; ++round) {
    DriverQueue rx(ram_, 64), tx(ram_, 64);
    ASSERT_TRUE(device_->activate(test::activation_of(ram_.memory(), kBase | virtio_net::kMrgRxbuf,
                                                      {&rx, &tx, nullptr}, interrupts_)));
    for (int i = 0; i < 64; ++i) {
      tx.add({readable(header_bytes() + frame_of(200))});
      rx.add({writable(300)});
    }
    tx.kick();
    rx.kick();
    for (int i = 0; i < 5; ++i) to_device(frame_of(700));
    const auto queues = device_->deactivate();
    ASSERT_TRUE(queues[0] && queues[1]);
    EXPECT_EQ(queues[0]->in_flight() + queues[1]->in_flight(), 0u);
    while (::recv(network_.get(), nullptr, 0, MSG_DONTWAIT | MSG_TRUNC) > 0) {
    }
  }
}

class NetHarness : public DeviceHarness {
 public:
  NetHarness() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    network_ = UniqueFd(ends[1]);
    const user_net::Hello hello;
    EXPECT_EQ(::send(network_.get(), &hello, sizeof hello, 0), ssize_t{sizeof hello});
    device_ = std::make_unique<NetDevice>(
        NetDevice::Parts{.name = "net0",
                         .mac = net::MacAddress::random(),
                         .mtu = 1500,
                         .backend = std::make_unique<net::SocketBackend>(UniqueFd(ends[0])),
                         .vhost = nullptr},
        ram().memory());
  }
  Device& device() override { return *device_; }
  QueueHandling handling(std::size_t queue) const override {
    return queue == 0 ? QueueHandling::takes : QueueHandling::answers;
  }

 private:
  UniqueFd network_;
  std::unique_ptr<NetDevice> device_;
};

// A card that is connected to nothing.
class UnpluggedHarness : public DeviceHarness {
 public:
  UnpluggedHarness()
      : device_(std::move(
            NetDevice::create(parse_net_config("unplugged").value(), "net0", ram().memory())
                .value())) {}
  Device& device() override { return *device_; }
  QueueHandling handling(std::size_t queue) const override {
    return queue == 0 ? QueueHandling::takes : QueueHandling::answers;
  }

 private:
  std::unique_ptr<NetDevice> device_;
};

INSTANTIATE_TEST_SUITE_P(
    Net, DeviceSuite,
    ::testing::Values(DeviceKind{"net", [] { return std::make_unique<NetHarness>(); }},
                      DeviceKind{"unplugged", [] { return std::make_unique<UnpluggedHarness>(); }}),
    DeviceKind::test_name);

TEST_F(NetDeviceTest, AnotherKindOfNetworkIsNamedWhereFeaturesAreMissing) {
  EXPECT_EQ(device_->features() & virtio_net::kGuestEcn, 0u);
  EXPECT_NE(device_->feature_advice().find("a network of another kind"), std::string_view::npos);
}

TEST(UnpluggedNet, HasNoLinkAndTellsARestoredDriver) {
  GuestRam ram;
  test::TestInterrupts interrupts;
  const auto device = NetDevice::create(parse_net_config("unplugged,mtu=9000,queues=4").value(),
                                        "net0", ram.memory());
  ASSERT_TRUE(device) << device.error().message();
  auto& net = **device;
  std::uint16_t status = 0xffff;
  net.read_config(6, std::as_writable_bytes(std::span(&status, 1)));
  EXPECT_EQ(status, 0) << "VIRTIO_NET_S_LINK_UP";
  EXPECT_FALSE(net.statistics().link_up);
  EXPECT_EQ(net.queue_sizes().size(), 9u);
  const auto ecn = virtio_net::kHostEcn | virtio_net::kGuestEcn;
  EXPECT_EQ(net.features() & ecn, 0u) << "not each network that is plugged in has it";
  state::Sections sections;
  net.save(sections, "net0");
  ASSERT_TRUE(net.restore(sections, "net0"));
  const auto wanted =
      kBase | virtio_net::kMq | virtio_net::kMtu | virtio_net::kHostEcn | virtio_net::kGuestTso6;
  EXPECT_EQ(net.features() & wanted, wanted) << "what a tap's driver uses is there";
  DriverQueue rx(ram, 64), tx(ram, 64);
  auto activation =
      test::activation_of(ram.memory(), kBase, {&rx, &tx, nullptr, nullptr}, interrupts);
  activation.resumed = true;
  ASSERT_TRUE(net.activate(std::move(activation)));
  EXPECT_TRUE(interrupts.wait_config_changed()) << "a restored driver saw a link before";
  (void)net.deactivate();
}

// A network that is no more than its ports.
class PortsBackend : public net::SocketBackend {
 public:
  using SocketBackend::SocketBackend;
  std::vector<std::string> ports() const override { return ports_; }
  Result<std::unique_ptr<net::PortChange>> prepare_ports(
      const std::vector<user_net::HostForward>& wanted) override {
    struct Change : net::PortChange {
      Change(PortsBackend& backend, std::vector<std::string> ports)
          : backend_(backend), ports_(std::move(ports)) {}
      Result<void> make() override {
        if (ports_.empty()) return fail("one is needed");
        backend_.ports_ = ports_;
        return {};
      }
      PortsBackend& backend_;
      std::vector<std::string> ports_;
    };
    std::vector<std::string> texts;
    for (const auto& port : wanted) texts.push_back(port.text());
    return std::make_unique<Change>(*this, std::move(texts));
  }

 private:
  std::vector<std::string> ports_;
};

TEST_F(NetDeviceTest, PortsChangeAndItsStatusHasThem) {
  SetUpOver<PortsBackend>();
  activate();
  const auto ports = [&] { return to_json_text(device_->status()); };
  EXPECT_EQ(ports(), R"({"mac":"52:54:00:12:34:56","ports":[]})");
  auto config = parse_net_config("user,hostfwd=tcp::8080-:80").value();
  auto change = device_->prepare_ports(config);
  ASSERT_TRUE(change);
  EXPECT_EQ(ports(), R"({"mac":"52:54:00:12:34:56","ports":[]})") << "not yet";
  auto queues = device_->suspend();
  EXPECT_TRUE((*change)->make());
  EXPECT_EQ(ports(), R"({"mac":"52:54:00:12:34:56","ports":["tcp:127.0.0.1:8080-:80"]})");
  config.user.forwards.clear();
  change = device_->prepare_ports(config);
  ASSERT_TRUE(change);
  EXPECT_FALSE((*change)->make());
  EXPECT_EQ(ports(), R"({"mac":"52:54:00:12:34:56","ports":["tcp:127.0.0.1:8080-:80"]})");
  ASSERT_TRUE(device_->activate(
      resumption(std::move(queues), kBase, {&rx_, &tx_, &control_}, interrupts_)));
}

TEST_F(NetDeviceTest, OtherNetworksPublishNoPorts) {
  const auto change = device_->prepare_ports(parse_net_config("user").value());
  ASSERT_FALSE(change);
  EXPECT_EQ(change.error().message(), "this network publishes no ports");
}

// A card without a link, and a network process that listens at a path.
class NetSlotTest : public ::testing::Test {
 protected:
  NetSlotTest() {
    char folder[] = "/tmp/net-slot-XXXXXX";
    folder_ = ::mkdtemp(folder);
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    path().copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(listener_.get(), 8), 0);
    EXPECT_TRUE(device_->activate(
        test::activation_of(ram_.memory(), kBase, {&rx_, &tx_, &control_}, interrupts_)));
  }
  ~NetSlotTest() override {
    (void)device_->deactivate();
    std::filesystem::remove_all(folder_);
  }
  std::string path() const { return folder_ + "/net"; }
  NetConfig plugged() const {
    return plug_in(card_, parse_net_config("socket=" + path()).value()).value();
  }

  // The network process, while `connect` connects to it.
  template <typename Connect>
  void accept(Connect connect) {
    std::thread process([this] {
      network_ = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      const user_net::Hello hello;
      EXPECT_EQ(::send(network_.get(), &hello, sizeof hello, 0), ssize_t{sizeof hello});
    });
    connect();
    process.join();
  }
  Result<std::unique_ptr<SlotChange>> prepare(const NetConfig& config) {
    if (config.kind != NetKind::socket) return device_->prepare(config);
    Result<std::unique_ptr<SlotChange>> change;
    accept([&] { change = device_->prepare(config); });
    return change;
  }
  void resume(std::vector<std::optional<Queue>> queues) {
    EXPECT_TRUE(device_->activate(
        resumption(std::move(queues), kBase, {&rx_, &tx_, &control_}, interrupts_)));
  }
  Result<void> make(const NetConfig& config) {
    auto change = TRY(prepare(config));
    auto queues = device_->suspend();
    const auto made = change->make();
    change.reset();
    resume(std::move(queues));
    return made;
  }
  std::string from_device() {
    std::string message(net::kMaxFrame, 0);
    pollfd entry{network_.get(), POLLIN, 0};
    if (::poll(&entry, 1, 10'000) <= 0) return "nothing came";
    const ssize_t n = ::recv(network_.get(), message.data(), message.size(), 0);
    message.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    return message;
  }

  std::string folder_;
  UniqueFd listener_{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  GuestRam ram_;
  test::TestInterrupts interrupts_;
  DriverQueue rx_{ram_, 256}, tx_{ram_, 256}, control_{ram_, 64};
  UniqueFd network_;
  NetConfig card_ = parse_net_config("unplugged,mac=52:54:00:12:34:56").value();
  std::unique_ptr<NetDevice> device_ = NetDevice::create(card_, "net0", ram_.memory()).value();
};

TEST_F(NetSlotTest, ACableIsPluggedInAndPulledOut) {
  EXPECT_FALSE(device_->statistics().link_up);
  const auto offered = device_->features();
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(make(plugged()));
    EXPECT_TRUE(device_->statistics().link_up);
    EXPECT_EQ(device_->features(), offered) << "its driver asked once";
    EXPECT_EQ(from_device().size(), sizeof(user_net::Control)) << "what was negotiated";
    tx_.add({readable(header_bytes() + frame_of(60))});
    tx_.kick();
    EXPECT_EQ(from_device(), header_bytes() + frame_of(60));
    ASSERT_TRUE(tx_.wait_used());
    rx_.add({writable(1 << 12)});
    rx_.kick();
    const auto message = header_bytes() + frame_of(100);
    ASSERT_EQ(::send(network_.get(), message.data(), message.size(), 0), ssize_t(message.size()));
    ASSERT_TRUE(rx_.wait_used());
    ASSERT_TRUE(make(card_));
    EXPECT_FALSE(device_->statistics().link_up);
    while (from_device().size() == sizeof(user_net::Control)) {
    }
    EXPECT_EQ(from_device(), "") << "the old connection is closed";
    tx_.add({readable(header_bytes() + frame_of(60))});
    tx_.kick();
    ASSERT_TRUE(tx_.wait_used()) << "frames go nowhere, and do not wait";
  }
  EXPECT_EQ(interrupts_.config_changes(), 6u) << "up and down";
}

TEST_F(NetSlotTest, ARestoredDriverIsToldWhateverItsLinkIs) {
  state::Sections saved;
  auto queues = device_->suspend();
  device_->save(saved, "net0");
  std::unique_ptr<NetDevice> restored;
  accept([&] { restored = NetDevice::create(plugged(), "net0", ram_.memory()).value(); });
  ASSERT_TRUE(restored->restore(saved, "net0"));
  device_ = std::move(restored);
  resume(std::move(queues));
  EXPECT_TRUE(device_->statistics().link_up);
  EXPECT_EQ(interrupts_.config_changes(), 1u) << "its driver saw no link";
  // Told once.
  resume(device_->suspend());
  EXPECT_EQ(interrupts_.config_changes(), 1u);
}

TEST_F(NetSlotTest, TheFirstOfTwoChangesIsNotForgotten) {
  auto queues = device_->suspend();
  for (int i = 0; i < 2; ++i) {
    auto change = prepare(plugged());
    ASSERT_TRUE(change && (*change)->make());
  }
  resume(std::move(queues));
  EXPECT_EQ(interrupts_.config_changes(), 1u) << "no link, a link, and another";
}

TEST_F(NetSlotTest, WhatCannotBeReachedChangesNothing) {
  auto nowhere = plugged();
  nowhere.socket = folder_ + "/none";
  EXPECT_FALSE(device_->prepare(nowhere));
  auto wide = card_;
  wide.queues = 4;
  const auto change = device_->prepare(wide);
  ASSERT_FALSE(change);
  EXPECT_EQ(change.error().message(), "net0: the card has 1 queue pairs, the network 4");
  ASSERT_TRUE(make(plugged()));
}

// The new network process dies between its word that it is set up and its first guest.
TEST_F(NetSlotTest, WhatDoesNotStartIsNotTaken) {
  ASSERT_TRUE(make(plugged()));
  const auto first = std::move(network_);
  auto change = prepare(plugged());
  ASSERT_TRUE(change);
  network_.reset();
  auto queues = device_->suspend();
  const auto made = (*change)->make();
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().message(), "net0: the network process is gone: Broken pipe");
  EXPECT_FALSE((*change)->is_made());
  change = nullptr;
  resume(std::move(queues));
  EXPECT_TRUE(device_->statistics().link_up);
  network_ = UniqueFd(::fcntl(first.get(), F_DUPFD_CLOEXEC, 0));
  EXPECT_EQ(from_device().size(), sizeof(user_net::Control)) << "what was negotiated";
  tx_.add({readable(header_bytes() + frame_of(60))});
  tx_.kick();
  EXPECT_EQ(from_device(), header_bytes() + frame_of(60)) << "the network of before goes on";
}

// Whatever this device was activated with before: the transport knows what the driver uses now.
TEST_F(NetSlotTest, IsNotTakenWithoutWhatItsDriverUses) {
  const auto change = prepare(plugged());
  ASSERT_TRUE(change);
  EXPECT_TRUE((*change)->check(kBase | virtio_net::kHostTso4 | kFeatureVersion1));
  const auto why_not = [&](std::uint64_t features) {
    const auto checked = (*change)->check(features);
    return checked ? "" : checked.error().message();
  };
  EXPECT_EQ(why_not(kBase | virtio_net::kHostEcn | virtio_net::kGuestEcn),
            "net0: its driver uses segments with ECN, which only a tap takes");
  EXPECT_EQ(why_not(kBase | virtio_net::kMtu | virtio_net::kHostEcn),
            "net0: its driver uses the feature bits 0x2008, which this network does not have");
}

TEST_F(NetSlotTest, TheCardStaysWhatItIs) {
  const auto why_not = [this](const char* words) {
    const auto plugged = plug_in(card_, parse_net_config(words).value());
    return plugged ? "" : plugged.error().message();
  };
  EXPECT_EQ(why_not("user,hostfwd=tcp::8080-:80"), "");
  EXPECT_EQ(why_not("unplugged"),
            "a network is missing: user, tap=NAME or socket=PATH is attached");
  EXPECT_EQ(why_not("fd=5:6"),
            "fd=5:6: these are descriptors of another process; a tap is named: tap=NAME");
  for (const char* words : {"user,mac=52:54:00:00:00:01", "user,mtu=9000", "tap=t0,queues=2"}) {
    EXPECT_EQ(why_not(words), "mac, mtu and queues are the card's, and stay");
  }
  auto wide = card_;
  wide.queues = 2;
  EXPECT_FALSE(plug_in(wide, parse_net_config("user").value()));
  EXPECT_EQ(unplug(plug_in(wide, parse_net_config("tap=t0").value()).value()), wide);
}

TEST(NetConfigTest, Parses) {
  const auto user =
      parse_net_config("user,hostfwd=tcp::8080-:80,hostfwd=udp:0.0.0.0:53-10.0.2.16:5353");
  ASSERT_TRUE(user) << user.error().message();
  EXPECT_EQ(user->kind, NetKind::user);
  ASSERT_EQ(user->user.forwards.size(), 2u);
  EXPECT_EQ(user->user.forwards[0].text(), "tcp:127.0.0.1:8080-:80");
  EXPECT_EQ(user->user.forwards[1].text(), "udp:0.0.0.0:53-10.0.2.16:5353");
  const auto tap = parse_net_config("tap=vmtap0,queues=4,vhost=off,mac=52:54:00:12:34:56,mtu=9000");
  ASSERT_TRUE(tap) << tap.error().message();
  EXPECT_EQ(tap->tap, "vmtap0");
  EXPECT_EQ(tap->queues, 4u);
  EXPECT_EQ(tap->vhost, VhostMode::off);
  EXPECT_EQ(tap->mac->text(), "52:54:00:12:34:56");
  EXPECT_EQ(tap->mtu, 9000);
  const auto network = parse_net_config("user,network=192.168.5.0/24");
  ASSERT_TRUE(network);
  EXPECT_EQ(network->user.dhcp_start.text(), "192.168.5.15");
  EXPECT_FALSE(network->user.host_loopback);
  const auto denied = parse_net_config("user,deny=169.254.169.254,deny=fd00::/8,loopback=on");
  ASSERT_TRUE(denied);
  ASSERT_EQ(denied->user.denied.size(), 2u);
  EXPECT_EQ(denied->user.denied[1].text(), "fd00::/8");
  EXPECT_TRUE(denied->user.host_loopback);
  EXPECT_EQ(*parse_net_config("user,gateway=10.9.0.1,dns=10.9.0.9,network=10.9.0.0/16"),
            *parse_net_config("user,network=10.9.0.0/16,gateway=10.9.0.1,dns=10.9.0.9"))
      << "whatever their order";
  EXPECT_EQ(parse_net_config("none")->kind, NetKind::none);
  EXPECT_EQ(parse_net_config("socket=/a,,b,mtu=9000")->socket, "/a,b");
  EXPECT_EQ(parse_net_config("fd=5:6")->fds, (std::vector{5, 6}));
}

TEST(NetConfigTest, RefusesInOneSentence) {
  const auto error = [](std::string_view text) {
    const auto result = parse_net_config(text);
    if (result) return std::string("no error");
    const auto& message = result.error().message();
    const auto prefix = fmt::format("network '{}': ", text);
    EXPECT_TRUE(message.starts_with(prefix)) << message;
    return message.substr(std::min(prefix.size(), message.size()));
  };
  EXPECT_EQ(error("usr"),
            "unknown network kind 'usr' (did you mean 'user'?): expected user, tap=NAME, fd=N, "
            "socket=PATH, unplugged or none");
  EXPECT_EQ(error(""),
            "a kind is missing: expected user, tap=NAME, fd=N, socket=PATH, unplugged or none");
  EXPECT_EQ(error("user,tap=x"),
            "'tap' says the kind of a network: it is the first word, and the only one of its sort");
  EXPECT_EQ(
      error("user,user"),
      "'user' says the kind of a network: it is the first word, and the only one of its sort");
  EXPECT_EQ(error("user,hostfw=1"), "unknown key 'hostfw' (did you mean 'hostfwd'?)");
  EXPECT_EQ(error("user,hostfwd=tcp:80"),
            "hostfwd: 'tcp:80' is not a forwarded port: tcp:[ADDRESS]:PORT-[ADDRESS]:PORT is, such "
            "as tcp::8080-:80, tcp::8000-8010-:8000-8010 or tcp:[::1]:8080-:80");
  EXPECT_EQ(error("user,hostfwd=tcp::0-:80"),
            "hostfwd: invalid port '0': expected a whole number from 1 to 65535");
  EXPECT_EQ(error("tap=x,hostfwd=tcp::1-:1"), "hostfwd: this key is for user networks only");
  EXPECT_EQ(error("user,queues=2"), "queues=2 needs a tap: other networks have one queue");
  EXPECT_EQ(error("tap"), "'tap' takes a value: tap=NAME");
  EXPECT_EQ(error("fd=5:x"),
            "fd: invalid tap descriptor 'x': expected a whole number from 0 to "
            "1048576");
  EXPECT_EQ(error("fd=5:6,queues=3"), "queues=3 needs as many descriptors, and fd names 2");
  EXPECT_EQ(error("user,vhost=yes"), "vhost: invalid value 'yes': expected auto, on or off");
  EXPECT_EQ(error("user,mtu=1"),
            "mtu: invalid value '1': expected a whole number from 576 to 65521");
  EXPECT_EQ(error("user,mac=1:2"),
            "mac: '1:2' is not a MAC address: six pairs of hex digits are, "
            "such as 52:54:00:12:34:56");
  EXPECT_EQ(error("user,mac=53:54:00:12:34:56"),
            "mac: '53:54:00:12:34:56' is a group address: the first byte of a machine's MAC "
            "address is even");
  EXPECT_EQ(error("user,network=10.0.2.5/24"),
            "network: '10.0.2.5/24' is not a network: its address is 10.0.2.0");
  EXPECT_EQ(error("user,deny=10.0.0.1/8"),
            "deny: '10.0.0.1/8' is not a network: its address is 10.0.0.0");
  EXPECT_EQ(error("user,dns=10.9.9.9"), "dns 10.9.9.9 is outside of the network 10.0.2.0/24");
}

}  // namespace
}  // namespace vmm::virtio
