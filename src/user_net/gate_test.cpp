#include "src/user_net/gate.h"

#include <gtest/gtest.h>

#include "src/user_net/packets_for_test.h"

namespace vmm::user_net {
namespace {

using namespace test;
using Verdict = Gate::Verdict;

constexpr std::uint8_t kSyn = 2, kReset = 4, kAck = 16, kTcp = 6, kUdp = 17, kIcmp = 1, kIcmp6 = 58;

IpAddress address(std::string_view text) { return IpAddress::parse(text).value(); }

Verdict judge(const Config& config, const std::string& frame) {
  return Gate(config).judge(span_of(frame));
}
Config with_ipv6() {
  Config config;
  config.ipv6 = true;
  return config;
}
std::string to(std::string_view destination, std::uint8_t protocol, const std::string& payload) {
  const auto target = address(destination);
  if (!target.is_ipv4() || destination.find(':') != std::string_view::npos) {
    return ipv6_frame(target, protocol, payload);
  }
  return ipv4_frame(target, payload, {.protocol = protocol});
}
const std::string kEcho("\10\0\0\0\0\0\0\0", 8);

TEST(GateTest, NothingReachesTheHostsLoopback) {
  auto config = with_ipv6();
  for (const bool host_loopback : {false, true}) {
    config.host_loopback = host_loopback;
    for (const auto* target :
         {"127.0.0.1", "127.0.0.53", "127.255.255.255", "0.0.0.0", "0.255.255.255", "0.0.0.1"}) {
      EXPECT_EQ(judge(config, to(target, kTcp, tcp(1, 80, kSyn))), Verdict::drop) << target;
      EXPECT_EQ(judge(config, to(target, kTcp, tcp(1, 80, kAck))), Verdict::drop) << target;
      EXPECT_EQ(judge(config, to(target, kUdp, udp(1, 53))), Verdict::drop) << target;
      EXPECT_EQ(judge(config, to(target, kIcmp, kEcho)), Verdict::drop) << target;
    }
    for (const auto* target : {"::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::127.0.0.1",
                               "::ffff:10.0.2.2", "::ffff:192.0.2.1"}) {
      EXPECT_EQ(judge(config, to(target, kTcp, tcp(1, 80, kSyn))), Verdict::drop) << target;
      EXPECT_EQ(judge(config, to(target, kUdp, udp(1, 53))), Verdict::drop) << target;
      EXPECT_EQ(judge(config, to(target, kIcmp6, kEcho)), Verdict::drop) << target;
    }
  }
}

TEST(GateTest, TheRestOfTheWorldIsReached) {
  for (const auto* target :
       {"192.0.2.1", "126.255.255.255", "128.0.0.1", "1.0.0.0", "2001:db8::1", "fd00::1"}) {
    EXPECT_EQ(judge(with_ipv6(), to(target, kTcp, tcp(1, 80, kSyn))), Verdict::pass) << target;
    EXPECT_EQ(judge(with_ipv6(), to(target, kUdp, udp(1, 53))), Verdict::pass) << target;
  }
  EXPECT_EQ(judge({}, to("192.0.2.1", kIcmp, kEcho)), Verdict::pass);
  EXPECT_EQ(judge({}, std::string(12, '\xff') + be16(0x0806) + std::string(28, 1)), Verdict::pass);
}

TEST(GateTest, TheGatewayIsTheHostsLoopbackOnlyWhenAsked) {
  auto config = with_ipv6();
  for (const auto* target : {"10.0.2.2", "255.255.255.255", "fec0::2", "fec0::77", "ff02::1"}) {
    EXPECT_EQ(judge(config, to(target, kTcp, tcp(1, 80, kSyn))), Verdict::refuse) << target;
    EXPECT_EQ(judge(config, to(target, kTcp, tcp(1, 80, kSyn | kAck))), Verdict::pass)
        << "the answer to a published port";
    EXPECT_EQ(judge(config, to(target, kUdp, udp(1, 53))), Verdict::drop) << target;
  }
  EXPECT_EQ(judge(config, to("10.0.2.2", kIcmp, kEcho)), Verdict::pass) << "libslirp's own answer";
  EXPECT_EQ(judge(config, to("255.255.255.255", kUdp, udp(68, 67))), Verdict::pass) << "DHCP";
  EXPECT_EQ(judge(config, to("ff02::1:2", kUdp, udp(546, 547))), Verdict::pass) << "DHCPv6";
  for (const auto* target : {"10.0.2.3", "fec0::3"}) {
    EXPECT_EQ(judge(config, to(target, kUdp, udp(1, 53))), Verdict::pass) << "DNS";
    EXPECT_EQ(judge(config, to(target, kTcp, tcp(1, 53, kSyn))), Verdict::pass) << "DNS by TCP";
    EXPECT_EQ(judge(config, to(target, kUdp, udp(1, 54))), Verdict::drop);
    EXPECT_EQ(judge(config, to(target, kTcp, tcp(1, 80, kSyn))), Verdict::refuse);
  }
  config.host_loopback = true;
  EXPECT_EQ(judge(config, to("10.0.2.2", kTcp, tcp(1, 80, kSyn))), Verdict::pass);
  EXPECT_EQ(judge(config, to("10.0.2.2", kUdp, udp(1, 53))), Verdict::pass);
}

TEST(GateTest, DeniedNetworks) {
  auto config = with_ipv6();
  config.denied = {IpNetwork::parse("169.254.169.254").value(),
                   IpNetwork::parse("10.0.0.0/8").value(), IpNetwork::parse("fd00::/9").value()};
  for (const auto* target : {"169.254.169.254", "10.255.0.1", "fd7f::1"}) {
    EXPECT_EQ(judge(config, to(target, kTcp, tcp(1, 80, kSyn))), Verdict::refuse) << target;
    // Of a connection that came in by a published port, and its end.
    for (const std::uint8_t flags : {kAck, kReset}) {
      EXPECT_EQ(judge(config, to(target, kTcp, tcp(1, 80, flags))), Verdict::pass) << target;
    }
    EXPECT_EQ(judge(config, to(target, kUdp, udp(1, 53))), Verdict::drop) << target;
  }
  EXPECT_EQ(judge(config, to("169.254.169.254", kIcmp, kEcho)), Verdict::drop);
  EXPECT_EQ(judge(config, to("fd00::1", kIcmp6, kEcho)), Verdict::drop);
  for (const auto* target : {"169.254.169.253", "11.0.0.1", "fd80::1"}) {
    EXPECT_EQ(judge(config, to(target, kTcp, tcp(1, 80, kSyn))), Verdict::pass) << target;
  }
  EXPECT_EQ(judge(config, to("10.0.2.3", kUdp, udp(1, 53))), Verdict::pass) << "the network's own";
  config.denied = {IpNetwork::parse("0.0.0.0/0").value()};
  EXPECT_EQ(judge(config, to("192.0.2.1", kUdp, udp(1, 53))), Verdict::drop);
  EXPECT_EQ(judge(config, to("2001:db8::1", kUdp, udp(1, 53))), Verdict::pass);
}

TEST(GateTest, PublishedUdpPortsAnswerWhoAsked) {
  Config config;
  config.forwards = {{.protocol = HostForward::Protocol::udp, .host_port = 5353, .guest_port = 53}};
  config.denied = {IpNetwork::parse("192.0.2.0/24").value()};
  for (const auto* peer : {"10.0.2.2", "192.0.2.9"}) {
    Gate gate(config);
    const auto answer = to(peer, kUdp, udp(53, 4000));
    EXPECT_EQ(gate.judge(span_of(answer)), Verdict::drop) << peer;
    gate.note_answerable(
        span_of(ipv4_frame(ipv4(10, 0, 2, 15), udp(4000, 53), {.source = address(peer)})));
    EXPECT_EQ(gate.judge(span_of(answer)), Verdict::pass) << peer;
    EXPECT_EQ(gate.judge(span_of(to(peer, kUdp, udp(53, 4001)))), Verdict::drop) << peer;
    EXPECT_EQ(gate.judge(span_of(to(peer, kUdp, udp(54, 4000)))), Verdict::drop) << peer;
  }
}

TEST(GateTest, HeadersThatWouldHideADestination) {
  const auto target = address("192.0.2.1");
  const auto options = [&](const std::string& text) {
    return judge({}, ipv4_frame(target, udp(1, 53), {.options = text}));
  };
  EXPECT_EQ(options("\x94\4" + std::string(2, 0)), Verdict::pass) << "router alert";
  EXPECT_EQ(options("\x83\7\4\x7f" + std::string("\0\0\1\0", 4)), Verdict::drop) << "loose route";
  EXPECT_EQ(options("\1\x89\7\4\x7f" + std::string("\0\0\1", 3)), Verdict::drop) << "strict route";
  EXPECT_EQ(options(std::string("\x94\0\1\1", 4)), Verdict::drop) << "an option without a length";
  // Hop by hop, routing, fragment, destination options.
  for (const int number : {0, 43, 44, 60, 132}) {
    const auto next = static_cast<std::uint8_t>(number);
    EXPECT_EQ(judge(with_ipv6(), to("2001:db8::1", next, std::string(40, 0))), Verdict::drop);
  }
  EXPECT_EQ(judge({}, to("192.0.2.1", 41, std::string(60, 0))), Verdict::drop) << "a tunnel";
  EXPECT_EQ(judge({}, ipv4_frame(target, udp(1, 53), {.place = 0x2000})), Verdict::drop);
  EXPECT_EQ(judge({}, ipv4_frame(target, udp(1, 53), {.place = 1})), Verdict::drop);
  EXPECT_EQ(judge({}, to("2001:db8::1", kUdp, udp(1, 53))), Verdict::drop) << "IPv6 is off";
  EXPECT_EQ(judge({}, std::string(12, '\2') + be16(0x8100) + std::string(60, 0)), Verdict::drop);
  EXPECT_EQ(judge({}, std::string(12, '\2') + be16(0x88f8) + std::string(60, 0)), Verdict::drop);
}

TEST(GateTest, FramesOfAnyLength) {
  Config config = with_ipv6();
  config.forwards = {{.protocol = HostForward::Protocol::udp, .host_port = 1, .guest_port = 2}};
  Gate gate(config);
  for (const auto& whole : {to("10.0.2.2", kTcp, tcp(1, 80, kSyn)), to("10.0.2.2", kUdp, udp(1, 2)),
                            to("fec0::2", kTcp, tcp(1, 80, kSyn)), to("fec0::2", kUdp, udp(1, 2)),
                            std::string(60, 0)}) {
    for (std::size_t size = 0; size <= whole.size(); ++size) {
      const auto part = whole.substr(0, size);
      gate.note_answerable(span_of(part));
      const auto verdict = gate.judge(span_of(part));
      EXPECT_TRUE(size == whole.size() || verdict == Verdict::drop) << size;
    }
  }
}

TEST(GateTest, ARefusedConnectionKeepsItsChecksum) {
  for (const bool ipv6 : {false, true}) {
    auto frame = to(ipv6 ? "fec0::2" : "10.0.2.2", kTcp, tcp(1, 80, kSyn));
    const std::size_t tcp_at = ipv6 ? 54 : 34;
    const auto sum = checksum_finish(checksum_add(0, span_of(frame).subspan(tcp_at)));
    std::memcpy(&frame[tcp_at + 16], &sum, 2);
    Gate::refuse_connection(std::as_writable_bytes(std::span(frame)));
    EXPECT_EQ(frame[tcp_at + 13], 3);
    EXPECT_EQ(checksum_finish(checksum_add(0, span_of(frame).subspan(tcp_at))), 0xffff);
  }
}

TEST(AddressTest, NetworksThatAreNone) {
  EXPECT_EQ(IpNetwork::parse("10.0.0.1/8").error().message(),
            "'10.0.0.1/8' is not a network: its address is 10.0.0.0");
  EXPECT_EQ(IpNetwork::parse("fd00::1/8").error().message(),
            "'fd00::1/8' is not a network: its address is fd00::");
  EXPECT_EQ(IpNetwork::parse("example").error().message(),
            "'example' is not an IP address such as 10.0.2.15 or fd00::1");
  EXPECT_FALSE(IpNetwork::parse("10.0.0.0/33"));
  EXPECT_FALSE(IpNetwork::parse("10.0.0.0/"));
  EXPECT_EQ(IpNetwork::parse("10.0.0.0/8")->text(), "10.0.0.0/8");
  EXPECT_EQ(IpNetwork::parse("fd00::/8")->text(), "fd00::/8");
  EXPECT_EQ(IpNetwork::parse("169.254.169.254")->text(), "169.254.169.254/32");
}

}  // namespace
}  // namespace vmm::user_net
