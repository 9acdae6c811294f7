// The network device over real taps, in a network namespace of its own: the host's kernel is the
// other end. Skipped where namespaces or taps cannot be made.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <thread>

#include "devices/backend/net/tap.h"
#include "devices/virtio/net/net_device.h"
#include "src/user_net/virtio_net.h"
#include "tests/support/virtio_driver.h"

namespace vmm::virtio {
namespace {

using net::TapBackend;
using test::DriverQueue;
using test::GuestRam;
using test::readable;
using test::writable;
using virtio_net::Header;

constexpr int kSkipped = 77;
constexpr std::uint32_t kHostAddress = 0x0a010101, kGuestAddress = 0x0a010102;
const std::string kGuestMac("\x52\x54\x00\x12\x34\x56", 6);

ifreq request_for(const std::string& name) {
  ifreq request{};
  std::memcpy(request.ifr_name, name.data(), name.size());
  return request;
}

int control_socket() {
  static const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  return fd;
}

// A persistent tap with the host's address, up; false where that is not allowed.
bool make_tap(const std::string& name, short flags = 0) {
  const UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  auto request = request_for(name);
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | flags);
  if (!tun || ::ioctl(tun.get(), TUNSETIFF, &request) < 0) return false;
  if (::ioctl(tun.get(), TUNSETPERSIST, 1) < 0) return false;
  // The kernel's own IPv6 frames would come between those of the test.
  const auto switch_path = fmt::format("/proc/sys/net/ipv6/conf/{}/disable_ipv6", name);
  if (auto file = open_file(switch_path, O_WRONLY)) (void)!::write(file->get(), "1", 1);
  request = request_for(name);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(kHostAddress);
  std::memcpy(&request.ifr_addr, &address, sizeof address);
  EXPECT_EQ(::ioctl(control_socket(), SIOCSIFADDR, &request), 0);
  address.sin_addr.s_addr = htonl(0xffffff00);
  std::memcpy(&request.ifr_netmask, &address, sizeof address);
  EXPECT_EQ(::ioctl(control_socket(), SIOCSIFNETMASK, &request), 0);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  EXPECT_EQ(::ioctl(control_socket(), SIOCSIFFLAGS, &request), 0);
  return true;
}

void remove_tap(const std::string& name) {
  const UniqueFd tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  auto request = request_for(name);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  EXPECT_EQ(::ioctl(tun.get(), TUNSETIFF, &request), 0);
  EXPECT_EQ(::ioctl(tun.get(), TUNSETPERSIST, 0), 0);
}

// Runs `body` in a child with a network namespace of its own; a failure there is one here.
void in_namespace(const std::function<void()>& body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const bool root = ::geteuid() == 0;
    if (::unshare(root ? CLONE_NEWNET : CLONE_NEWUSER | CLONE_NEWNET) < 0 || !make_tap("probe")) {
      ::_exit(kSkipped);
    }
    body();
    std::fflush(nullptr);
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  if (WEXITSTATUS(status) == kSkipped) {
    GTEST_SKIP() << "no network namespace with a tap in it can be made here";
  }
  EXPECT_EQ(WEXITSTATUS(status), 0) << "see above";
}

std::string error_of(const std::string& tap, unsigned pairs = 1) {
  const auto result = TapBackend::open(tap, pairs);
  return result ? "no error" : result.error().message();
}

std::string arp_request() {
  const std::string zero(6, 0);
  const std::uint32_t own = htonl(kGuestAddress), other = htonl(kHostAddress);
  return std::string(6, '\xff') + kGuestMac + std::string("\x08\x06\0\1\x08\0\6\4\0\1", 10) +
         kGuestMac + std::string(reinterpret_cast<const char*>(&own), 4) + zero +
         std::string(reinterpret_cast<const char*>(&other), 4);
}
bool is_arp_reply(const std::string& frame) {
  return frame.substr(12, 2) == "\x08\x06" && frame[21] == 2 && frame.substr(0, 6) == kGuestMac;
}

constexpr std::uint64_t kFeatures =
    virtio_net::kMrgRxbuf | virtio_net::kStatus | virtio_net::kCtrlVq | kFeatureEventIdx;

// A guest's driver with `pairs` queue pairs over a device that `config` names.
struct Guest {
  Guest(const NetConfig& config, std::uint64_t features, unsigned pairs = 1) {
    auto created = NetDevice::create(config, "net0", ram.memory());
    EXPECT_TRUE(created) << created.error().message();
    if (!created) return;
    device = std::move(*created);
    for (unsigned i = 0; i < 2 * pairs + 1; ++i) {
      queues.push_back(std::make_unique<DriverQueue>(ram, std::uint16_t{256}));
      raw.push_back(queues.back().get());
    }
    for (unsigned i = 0; i < pairs; ++i) {
      for (int k = 0; k < 128; ++k) queues[2 * i]->add({writable(2048)});
    }
    const auto result = device->activate(
        test::activation_of(ram.memory(), features & device->features(), raw, interrupts));
    EXPECT_TRUE(result) << result.error().message();
    for (auto& queue : queues) queue->kick();
  }
  ~Guest() {
    if (device) (void)device->deactivate();
  }
  Result<void> activate_again(std::vector<std::optional<Queue>> positions) {
    Activation again;
    again.features = kFeatures | kFeatureVersion1;
    again.interrupts = &interrupts;
    for (std::size_t i = 0; i < positions.size(); ++i) {
      again.queues.push_back(ActiveQueue{std::move(*positions[i]), &raw[i]->kick_fd()});
    }
    return device->activate(std::move(again));
  }
  void send(const std::string& frame, unsigned pair = 0) {
    queues[2 * pair + 1]->add({readable(std::string(sizeof(Header), 0) + frame)});
    queues[2 * pair + 1]->kick();
  }
  std::string receive(unsigned pair = 0) {
    const auto used = queues[2 * pair]->wait_used();
    if (!used) return std::string(64, 0);
    const auto message = queues[2 * pair]->text(used->head, 0).substr(0, used->written);
    std::memcpy(&header, message.data(), sizeof header);
    return message.substr(sizeof header);
  }
  void expect_arp_answer(unsigned pair = 0) {
    send(arp_request(), pair);
    EXPECT_TRUE(is_arp_reply(receive(0)));
  }

  GuestRam ram{64u << 20};
  test::TestInterrupts interrupts;
  std::vector<std::unique_ptr<DriverQueue>> queues;
  std::vector<DriverQueue*> raw;
  std::unique_ptr<NetDevice> device;
  Header header;
};

NetConfig tap_config(const std::string& name, VhostMode vhost = VhostMode::off) {
  NetConfig config;
  config.kind = NetKind::tap;
  config.tap = name;
  config.vhost = vhost;
  return config;
}

TEST(TapTest, ErrorsNameTheTap) {
  in_namespace([] {
    EXPECT_EQ(error_of("none0"),
              "tap 'none0' does not exist: create it by `ip tuntap add none0 mode tap user $USER` "
              "and `ip link set none0 up`");
    EXPECT_EQ(error_of("lo"), "'lo' is not a tap: create one by `ip tuntap add NAME mode tap`");
    EXPECT_EQ(error_of(""), "'' is not the name of a tap: 1 to 15 characters are");
    EXPECT_EQ(error_of("a-name-that-is-too-long"),
              "'a-name-that-is-too-long' is not the name of a tap: 1 to 15 characters are");
    EXPECT_EQ(error_of("probe", 2),
              "'probe' is not a tap of several queues: create it by `ip tuntap add probe mode tap "
              "multi_queue`, or use queues=1");
    const auto first = TapBackend::open("probe", 1);
    ASSERT_TRUE(first);
    EXPECT_EQ(error_of("probe"), "tap 'probe' is in use by another process");
  });
}

TEST(TapTest, AdoptsDescriptors) {
  in_namespace([] {
    const auto adopt = [](short flags) {
      UniqueFd tun(::open("/dev/net/tun", O_RDWR));
      auto request = request_for("probe");
      request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | flags);
      EXPECT_EQ(::ioctl(tun.get(), TUNSETIFF, &request), 0);
      return TapBackend::adopt({{tun.get()}});
    };
    EXPECT_FALSE(adopt(0));
    const auto tap = adopt(IFF_VNET_HDR);
    ASSERT_TRUE(tap) << tap.error().message();
    EXPECT_EQ((*tap)->name(), "probe");
    EXPECT_NE(::fcntl((*tap)->fd(0), F_GETFL) & O_NONBLOCK, 0);
    const UniqueFd null(::open("/dev/null", O_RDWR));
    const auto wrong = TapBackend::adopt({{null.get()}});
    ASSERT_FALSE(wrong);
    EXPECT_EQ(wrong.error().message(),
              fmt::format("descriptor {} is not a queue of a tap", null.get()));
  });
}

TEST(TapDeviceTest, TheHostAnswers) {
  in_namespace([] {
    Guest guest(tap_config("probe"), kFeatures);
    guest.expect_arp_answer();
    EXPECT_EQ(guest.header.num_buffers, 1);
    EXPECT_EQ(guest.device->statistics().rx_packets, 1u);
    EXPECT_EQ(guest.device->statistics().tx_packets, 1u);
    EXPECT_FALSE(guest.device->statistics().vhost);
  });
}

// The kernel leaves checksums to a guest that takes such frames, and segments to one that takes
// large ones.
void send_datagram(std::size_t size) {
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(kGuestAddress);
  to.sin_port = htons(9);
  const std::string text(size, 'x');
  EXPECT_EQ(
      ::sendto(socket.get(), text.data(), size, 0, reinterpret_cast<sockaddr*>(&to), sizeof to),
      static_cast<ssize_t>(size));
}

TEST(TapDeviceTest, ChecksumsAreLeftToTheGuest) {
  in_namespace([] {
    Guest guest(tap_config("probe"), kFeatures | virtio_net::kGuestCsum);
    guest.expect_arp_answer();
    send_datagram(100);
    EXPECT_EQ(guest.receive()[23], 17);
    EXPECT_EQ(guest.header.flags, virtio_net::kNeedsCsum);
    EXPECT_EQ(guest.header.csum_start, 34);
  });
  in_namespace([] {
    Guest guest(tap_config("probe"), kFeatures);
    guest.expect_arp_answer();
    send_datagram(100);
    EXPECT_EQ(guest.receive()[23], 17);
    EXPECT_EQ(guest.header.flags, 0);
  });
}

TEST(TapDeviceTest, AFrameThatTheKernelRefusesIsDropped) {
  in_namespace([] {
    Guest guest(tap_config("probe"), kFeatures);
    Header header;
    header.gso_type = 99;
    guest.queues[1]->add({readable(std::string(reinterpret_cast<char*>(&header), sizeof header) +
                                   std::string(60, 'x'))});
    guest.expect_arp_answer();
    EXPECT_EQ(guest.device->statistics().tx_dropped, 1u);
  });
}

TEST(TapDeviceTest, FloodsAreServed) {
  in_namespace([] {
    Guest guest(tap_config("probe"), kFeatures);
    guest.expect_arp_answer();
    for (int i = 0; i < 2000; ++i) {
      if (i % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      send_datagram(900);
      const auto used = guest.queues[0]->poll_used();
      if (used) {
        guest.queues[0]->add({writable(2048)});
        guest.queues[0]->kick();
      }
    }
    EXPECT_GT(guest.device->statistics().rx_packets, 120u);
    EXPECT_FALSE(guest.interrupts.is_reset_needed());
  });
}

// As somebody on the host does.
void delete_tap(const char* name) {
  const UniqueFd netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
  struct {
    std::uint32_t length = 32;
    std::uint16_t type = 17;  // RTM_DELLINK
    std::uint16_t flags = 1;
    std::uint32_t sequence = 0, port = 0;
    std::uint8_t family = 0, pad = 0;
    std::uint16_t device = 0;
    std::uint32_t index = 0, link_flags = 0, change = 0;
  } message;
  message.index = ::if_nametoindex(name);
  ASSERT_EQ(::send(netlink.get(), &message, sizeof message, 0), ssize_t{sizeof message});
}

TEST(TapDeviceTest, TheLinkGoesDownWithTheTap) {
  in_namespace([] {
    ASSERT_TRUE(make_tap("doomed", IFF_MULTI_QUEUE));
    Guest guest(tap_config("doomed"), kFeatures);
    guest.expect_arp_answer();
    delete_tap("doomed");
    EXPECT_TRUE(guest.interrupts.wait_config_changed());
    EXPECT_FALSE(guest.device->statistics().link_up);
  });
}

TEST(TapDeviceTest, SeveralPairs) {
  in_namespace([] {
    ASSERT_TRUE(make_tap("many", IFF_MULTI_QUEUE));
    remove_tap("probe");  // has the same address
    auto config = tap_config("many");
    config.queues = 2;
    Guest guest(config, kFeatures | virtio_net::kMq, 2);
    std::array<std::byte, 2> pairs;
    guest.device->read_config(8, pairs);
    EXPECT_EQ(pairs[0], std::byte{2});
    guest.expect_arp_answer();
    auto& control = *guest.queues[4];
    const auto command = [&](const std::string& bytes) {
      const auto head = control.add({readable(bytes), writable(1)});
      control.kick();
      EXPECT_TRUE(control.wait_used());
      return control.text(head, 1)[0];
    };
    EXPECT_EQ(command(std::string("\4\0\3\0", 4)), 1);
    EXPECT_EQ(command(std::string("\4\0\0\0", 4)), 1);
    EXPECT_EQ(command(std::string("\4\0\2\0", 4)), 0);
    // A flow is answered on the pair that it comes from.
    guest.send(arp_request(), 1);
    EXPECT_TRUE(guest.queues[3]->wait_used());
    for (int i = 0; i < 200; ++i) {
      if (guest.queues[0]->poll_used() || guest.queues[2]->poll_used()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_EQ(guest.device->statistics().rx_packets, 2u);
    EXPECT_EQ(command(std::string("\4\0\1\0", 4)), 0);
    guest.expect_arp_answer();
    EXPECT_EQ(command(std::string("\4\0\2\0", 4)), 0);
    EXPECT_TRUE(guest.device->statistics().link_up) << "a resting queue seems to be gone";
    const auto queues = guest.device->deactivate();
    ASSERT_EQ(queues.size(), 5u);
    for (const auto& queue : queues) EXPECT_TRUE(queue && queue->in_flight() == 0);
  });
}

TEST(TapDeviceTest, VhostServesTheQueues) {
  if (::access("/dev/vhost-net", R_OK | W_OK) != 0) GTEST_SKIP() << "no /dev/vhost-net here";
  in_namespace([] {
    Guest guest(tap_config("probe", VhostMode::on), kFeatures | virtio_net::kGuestCsum);
    EXPECT_TRUE(guest.device->statistics().vhost);
    guest.expect_arp_answer();
    send_datagram(100);
    EXPECT_EQ(guest.receive()[23], 17);
    EXPECT_EQ(guest.header.flags, virtio_net::kNeedsCsum);
    // The rings come back where the kernel left them, and serve again.
    auto queues = guest.device->deactivate();
    ASSERT_TRUE(queues[0] && queues[1]);
    EXPECT_EQ(queues[0]->next_avail(), 2);
    EXPECT_EQ(queues[0]->next_used(), 2);
    EXPECT_EQ(queues[1]->next_avail(), 1);
    ASSERT_TRUE(guest.activate_again(std::move(queues)));
    guest.expect_arp_answer();
  });
}

// Its driver finds the link down, as it does without vhost.
TEST(TapDeviceTest, VhostWithoutItsTapNeedsNoReset) {
  if (::access("/dev/vhost-net", R_OK | W_OK) != 0) GTEST_SKIP() << "no /dev/vhost-net here";
  in_namespace([] {
    ASSERT_TRUE(make_tap("doomed", IFF_MULTI_QUEUE));
    Guest guest(tap_config("doomed", VhostMode::on), kFeatures);
    delete_tap("doomed");
    ASSERT_TRUE(guest.activate_again(guest.device->deactivate()));
    EXPECT_FALSE(guest.device->statistics().vhost);
    EXPECT_FALSE(guest.device->statistics().link_up);
    guest.send(arp_request());
    EXPECT_TRUE(guest.queues[1]->wait_used()) << "dropped";
    EXPECT_FALSE(guest.interrupts.is_reset_needed()) << guest.interrupts.reason();
  });
}

TEST(TapDeviceTest, VhostFindsBrokenRings) {
  if (::access("/dev/vhost-net", R_OK | W_OK) != 0) GTEST_SKIP() << "no /dev/vhost-net here";
  in_namespace([] {
    Guest guest(tap_config("probe", VhostMode::on), kFeatures);
    guest.queues[1]->offer(9999);
    guest.queues[1]->kick();
    EXPECT_TRUE(guest.interrupts.wait_needs_reset());
  });
}

TEST(TapDeviceTest, VhostThatIsMissingIsNamed) {
  if (::access("/dev/vhost-net", F_OK) == 0) GTEST_SKIP() << "this host has /dev/vhost-net";
  in_namespace([] {
    GuestRam ram;
    const auto device = NetDevice::create(tap_config("probe", VhostMode::on), "net0", ram.memory());
    ASSERT_FALSE(device);
    EXPECT_EQ(
        device.error().message(),
        "vhost=on: /dev/vhost-net is missing: load the host's module by `modprobe vhost_net`");
    EXPECT_TRUE(NetDevice::create(tap_config("probe", VhostMode::automatic), "net0", ram.memory()));
  });
}

}  // namespace
}  // namespace vmm::virtio
