// Ports that are published and closed while the network process runs.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>

#include "devices/backend/net/user_network_for_test.h"
#include "src/base/child.h"

namespace vmm::net {
namespace {

std::uint16_t free_port(int type = SOCK_STREAM) {
  std::uint16_t port = 0;
  (void)host_socket(type, port);
  return port;
}

// The most that another process may have.
rlimit limit_of(pid_t process, const rlimit* wanted = nullptr) {
  rlimit before{};
  EXPECT_EQ(::prlimit(process, RLIMIT_NOFILE, wanted, &before), 0);
  return before;
}

// The number of the descriptor that it gets after `count` others.
rlim_t free_descriptor(pid_t process, unsigned count) {
  for (rlim_t number = 0;; ++number) {
    const auto file = fmt::format("/proc/{}/fd/{}", process, number);
    if (!std::filesystem::is_symlink(file) && count-- == 0) return number;
  }
}

TEST_F(UserNetworkTest, APortIsPublishedWhileAConnectionGoesOn) {
  const auto first = free_port(), second = free_port();
  user_net::Config config;
  config.forwards = {{.host_port = first, .guest_port = 80}};
  start(config);
  EXPECT_FALSE(call(second));
  const auto before = call(first);
  const auto remote = take_call(80);
  ASSERT_NE(remote, 0);
  const auto sequence = sequence_, acknowledged = acknowledged_;

  const auto one = fmt::format("tcp::{}-:80", first), two = fmt::format("tcp::{}-:81", second);
  const auto published = set_ports({one, two});
  ASSERT_TRUE(published) << published.error().message();
  EXPECT_EQ(network_->ports().size(), 2u);
  const auto later = call(second);
  ASSERT_TRUE(later);
  const auto later_remote = take_call(81);
  const auto request = pattern(100'000);
  std::jthread writer([&] { send_all(later, request); });
  EXPECT_TRUE(receive_stream(81, later_remote, request.size()) == request);
  writer.join();
  EXPECT_GT(largest_, 15'000u) << "no large segments";

  // Neither of both connections minds that the ports go.
  const auto gone = set_ports({});
  ASSERT_TRUE(gone) << gone.error().message();
  EXPECT_TRUE(network_->ports().empty());
  EXPECT_FALSE(call(first));
  EXPECT_FALSE(call(second));
  send_tcp(81, later_remote, kAck | kPush, "", "welcome");
  EXPECT_EQ(read_bytes(later, 7), "welcome");
  sequence_ = sequence;
  acknowledged_ = acknowledged;
  send_tcp(80, remote, kAck | kPush, "", "hello");
  EXPECT_EQ(read_bytes(before, 5), "hello");
  // The ports are free again at once.
  EXPECT_TRUE(set_ports({one, two}));
  EXPECT_TRUE(call(first));
}

TEST_F(UserNetworkTest, AUdpPortIsPublishedWhileItRuns) {
  const auto port = free_port(SOCK_DGRAM);
  start({});
  ASSERT_TRUE(set_ports({fmt::format("udp::{}-:53", port)}));
  const auto client = call(port, SOCK_DGRAM);
  send_all(client, "question");
  const auto asked = receive_type(0x0800);
  ASSERT_TRUE(asked);
  EXPECT_EQ(get16(asked->frame, 36), 53);
  EXPECT_EQ(asked->frame.substr(42), "question");
  const Ipv4Address from{get32(asked->frame, 26)};
  send(udp_frame(kGuest, 53, from, get16(asked->frame, 34), "answer"));
  EXPECT_EQ(read_bytes(client, 6), "answer");
  ASSERT_TRUE(set_ports({}));
  // Nobody has it any more.
  const UniqueFd again(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  EXPECT_EQ(::bind(again.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
}

TEST_F(UserNetworkTest, WhatCannotBePublishedChangesNothing) {
  const auto kept = free_port();
  std::uint16_t taken = 0;
  const auto holder = host_socket(SOCK_STREAM, taken);
  start({});
  const auto keep = fmt::format("tcp::{}-:80", kept);
  ASSERT_TRUE(set_ports({keep}));
  const auto refused = set_ports({keep, fmt::format("tcp::{}-:81", taken)});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message(),
            fmt::format("cannot publish tcp port {} of 127.0.0.1: it is taken", taken));
  EXPECT_EQ(set_ports({keep, "tcp:192.0.2.1:8080-:80"}).error().message(),
            "cannot publish tcp port 8080 of 192.0.2.1: the host has no such address");
  EXPECT_EQ(set_ports({keep, "tcp:[::1]:8080-:80"}).error().message(),
            "forwarded port 'tcp:[::1]:8080-:80': IPv6 reaches the guest with ipv6=on");
  EXPECT_EQ(network_->ports(), (std::vector{fmt::format("tcp:127.0.0.1:{}-:80", kept)}));
  EXPECT_TRUE(call(kept));
}

// The first of two is published when the network process has no descriptor for the second.
TEST_F(UserNetworkTest, WhatFailsInTheMiddleLeavesNothing) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer opens pipes to look at memory";
  const auto kept = free_port(), first = free_port(), second = free_port();
  start({});
  const auto keep = fmt::format("tcp::{}-:80", kept);
  ASSERT_TRUE(set_ports({keep}));
  const auto process = network_->process();
  auto limit = limit_of(process);
  // Each comes as one, and is listened at by another one, which stays.
  limit.rlim_cur = limit.rlim_max = free_descriptor(process, 2);
  limit_of(process, &limit);
  const auto change = network_->prepare_ports(
      {user_net::HostForward::parse(fmt::format("tcp::{}-:81", first)).value(),
       user_net::HostForward::parse(fmt::format("tcp::{}-:82", second)).value()});
  ASSERT_TRUE(change);
  const auto made = (*change)->make();
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().message(),
            fmt::format("cannot publish tcp port {} of 127.0.0.1: Too many open files", second));
  EXPECT_FALSE(call(first));
  EXPECT_FALSE(call(second));
  EXPECT_EQ(network_->ports(), (std::vector{fmt::format("tcp:127.0.0.1:{}-:80", kept)}));
  EXPECT_TRUE(call(kept));
}

// Two changes of the same ports: what the first closed, the second finds closed.
TEST_F(UserNetworkTest, AProcessThatDoesNotCloseAPortIsReplaced) {
  const auto old = free_port(), first = free_port(), second = free_port();
  start({});
  ASSERT_TRUE(set_ports({fmt::format("tcp::{}-:80", old)}));
  const auto prepare = [&](std::uint16_t port) {
    const auto wanted = user_net::HostForward::parse(fmt::format("tcp::{}-:81", port)).value();
    return std::move(network_->prepare_ports({wanted}).value());
  };
  const auto one = prepare(first), two = prepare(second);
  ASSERT_TRUE(one->make());
  EXPECT_TRUE(call(first));
  ASSERT_TRUE(two->make());
  while (receive()) {
  }
  ASSERT_EQ(network_->process(), 0) << "it goes on with a port that nobody knows of";
  ASSERT_TRUE(network_->reopen());
  EXPECT_FALSE(call(old));
  EXPECT_FALSE(call(first));
  EXPECT_TRUE(call(second));
  EXPECT_EQ(network_->ports(), (std::vector{fmt::format("tcp:127.0.0.1:{}-:81", second)}));
}

TEST_F(UserNetworkTest, PortsOfBeforeAndAfterADeathArePublishedAgain) {
  const auto first = free_port(), second = free_port();
  start({});
  const auto one = fmt::format("tcp::{}-:80", first), two = fmt::format("tcp::{}-:81", second);
  ASSERT_TRUE(set_ports({one}));
  ASSERT_EQ(::kill(network_->process(), SIGKILL), 0);
  // Whether its end was noticed or not.
  ASSERT_TRUE(set_ports({one, two}));
  EXPECT_FALSE(receive());
  ASSERT_EQ(network_->process(), 0);
  ASSERT_TRUE(set_ports({two}));
  const auto reopened = network_->reopen();
  ASSERT_TRUE(reopened) << reopened.error().message();
  ASSERT_TRUE(network_->start(kAllOffloads));
  EXPECT_FALSE(call(first));
  EXPECT_TRUE(call(second));
  // The one that was opened at its start goes like any other.
  ASSERT_TRUE(set_ports({}));
  EXPECT_FALSE(call(second));
}

// As many as there may be, again and again: neither here nor there anything is left.
TEST_F(UserNetworkTest, AFloodOfPortsIsBounded) {
  start({});
  const auto descriptors_of = [](const std::string& process) {
    const std::filesystem::directory_iterator all(fmt::format("/proc/{}/fd", process));
    return std::distance(begin(all), end(all));
  };
  const auto process = std::to_string(network_->process());
  ASSERT_TRUE(set_ports({}));
  const auto here = descriptors_of("self"), there = descriptors_of(process);
  raise_descriptor_limit();  // as the program does
  // Of an address that nobody else uses, another run of this test among them.
  const auto address = fmt::format("127.77.{}.{}", ::getpid() >> 8 & 255, (::getpid() & 127) + 1);
  const auto many = fmt::format("tcp:{}:20000-21023-:1000-2023", address);
  for (int i = 0; i < 3; ++i) {
    const auto published = set_ports({many});
    ASSERT_TRUE(published) << published.error().message();
    EXPECT_EQ(descriptors_of(process), there + 1024);
    EXPECT_EQ(set_ports({many, fmt::format("tcp:{}:30000-:80", address)}).error().message(),
              "1025 forwarded ports: expected at most 1024");
    ASSERT_TRUE(set_ports({}));
    EXPECT_EQ(descriptors_of("self"), here);
    EXPECT_EQ(descriptors_of(process), there);
  }
}

std::chrono::nanoseconds work_of(pid_t process) {
  clockid_t clock{};
  timespec time{};
  EXPECT_EQ(::clock_getcpuclockid(process, &clock), 0);
  EXPECT_EQ(::clock_gettime(clock, &time), 0);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

TEST_F(UserNetworkTest, WithoutDescriptorsAConnectionWaits) {
  using std::chrono::milliseconds;
  const auto port = free_port();
  user_net::Config config;
  config.forwards = {{.host_port = port, .guest_port = 80}};
  start(config);
  const auto process = network_->process();
  auto limit = limit_of(process);
  const auto most = std::exchange(limit.rlim_cur, free_descriptor(process, 0));
  limit_of(process, &limit);
  const auto client = call(port);
  ASSERT_TRUE(client);
  const auto before = work_of(process);
  std::this_thread::sleep_for(milliseconds(500));
  EXPECT_LT(work_of(process) - before, milliseconds(100)) << "it is tried again and again";
  limit.rlim_cur = most;
  limit_of(process, &limit);
  EXPECT_NE(take_call(80), 0);
}

// The descriptors of the guest's connections are not those of ports.
TEST_F(UserNetworkTest, AGuestWithAllConnectionsKeepsNoPortFromBeingPublished) {
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
  const auto published = free_port();
  const auto done = set_ports({fmt::format("tcp::{}-:80", published)});
  ASSERT_TRUE(done) << done.error().message();
  EXPECT_EQ(network_->ports().size(), 1u);
  EXPECT_TRUE(call(published));
}

}  // namespace
}  // namespace vmm::net
