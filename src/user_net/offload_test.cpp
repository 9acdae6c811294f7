#include "src/user_net/offload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "src/user_net/config.h"
#include "src/user_net/merger.h"

namespace vmm::user_net {
namespace {

using Bytes = std::vector<std::byte>;

// The definition, a byte pair at a time.
std::uint16_t plain_checksum(std::span<const std::byte> bytes) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < bytes.size(); i += 2) {
    std::uint16_t word = 0;
    std::memcpy(&word, &bytes[i], std::min<std::size_t>(2, bytes.size() - i));
    sum += word;
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return static_cast<std::uint16_t>(~sum);
}

// Ethernet, IPv4, TCP with `options`, and `payload` bytes.
Bytes tcp_frame(const std::string& options, std::size_t payload, std::uint8_t flags) {
  Bytes frame(14 + 20 + 20 + options.size() + payload);
  const auto put = [&](std::size_t at, std::initializer_list<unsigned> values) {
    for (const auto value : values) frame[at++] = static_cast<std::byte>(value);
  };
  const auto total = static_cast<unsigned>(frame.size() - 14);
  put(12, {8, 0, 0x45, 0, total >> 8, total & 255, 0, 0, 0x40, 0, 64, 6, 0, 0});
  put(26, {10, 0, 2, 15, 10, 0, 2, 2, 0x9c, 0x40, 0, 80});
  const auto words = static_cast<unsigned>((20 + options.size()) / 4);
  put(46, {words << 4, flags, 0xff, 0xff});
  std::memcpy(&frame[54], options.data(), options.size());
  for (std::size_t i = 0; i < payload; ++i) {
    frame[54 + options.size() + i] = static_cast<std::byte>(i * 5);
  }
  return frame;
}

// The checksum over pseudo header and segment; 0 when it is right.
std::uint16_t tcp_residue(const Bytes& frame) {
  std::uint64_t sum = checksum_add(0, std::span(frame).subspan(26, 8));
  const auto segment = std::span(frame).subspan(34);
  const std::array<std::byte, 4> rest = {std::byte{0}, std::byte{6},
                                         static_cast<std::byte>(segment.size() >> 8),
                                         static_cast<std::byte>(segment.size() & 255)};
  sum = checksum_add(sum, rest);
  sum = checksum_add(sum, segment);
  const auto result = checksum_finish(sum);
  return result == 0xffff ? 0 : result;
}

TEST(OffloadTest, ChecksumsOfAllLengths) {
  Bytes bytes(300);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 37 + 200);
  for (std::size_t size = 1; size < bytes.size(); ++size) {
    const auto part = std::span(bytes).first(size);
    EXPECT_EQ(checksum_finish(checksum_add(0, part)), plain_checksum(part)) << size;
  }
  const Bytes ones(65535, std::byte{0xff});
  EXPECT_EQ(checksum_finish(checksum_add(0, std::span(ones).first(65534))), 0xffff)
      << "zero is sent as its other form";
}

TEST(OffloadTest, FindsTcp) {
  const auto frame = tcp_frame("", 10, 0x02);
  const auto tcp = find_tcp(frame);
  ASSERT_TRUE(tcp);
  EXPECT_EQ(tcp->network, 14);
  EXPECT_EQ(tcp->transport, 34);
  EXPECT_EQ(tcp->payload, 54);
  EXPECT_TRUE(tcp->syn);
  for (std::size_t size = 0; size < 54; ++size) {
    EXPECT_FALSE(find_tcp(std::span(frame).first(size))) << size;
  }
  auto udp = frame;
  udp[23] = std::byte{17};
  EXPECT_FALSE(find_tcp(udp));
  auto fragment = frame;
  fragment[21] = std::byte{1};
  EXPECT_FALSE(find_tcp(fragment));
  auto long_header = frame;
  long_header[46] = std::byte{0xf0};
  EXPECT_FALSE(find_tcp(long_header)) << "60 bytes of header in 30";
}

TEST(OffloadTest, CompletesChecksums) {
  auto frame = tcp_frame("", 1001, 0x10);
  const auto tcp = *find_tcp(frame);
  const auto header = prepare_large_segment(frame, tcp, 500);
  EXPECT_EQ(header.csum_start, 34);
  EXPECT_EQ(header.gso_size, 500);
  EXPECT_NE(tcp_residue(frame), 0);
  ASSERT_TRUE(complete_checksum(header, frame));
  EXPECT_EQ(tcp_residue(frame), 0);
}

TEST(OffloadTest, RefusesChecksumsOutsideOfTheFrame) {
  auto frame = tcp_frame("", 0, 0x10);
  EXPECT_FALSE(complete_checksum({.csum_start = 34, .csum_offset = 19}, frame));
  EXPECT_FALSE(complete_checksum({.csum_start = 55, .csum_offset = 0}, frame));
  EXPECT_FALSE(complete_checksum({.csum_start = 65535, .csum_offset = 65535}, frame));
  EXPECT_TRUE(complete_checksum({.csum_start = 34, .csum_offset = 18}, frame));
}

TEST(OffloadTest, RaisesTheSegmentSizeWhereverItIs) {
  using namespace std::string_literals;
  for (const auto& options : {"\x02\x04\x05\xb4"s, "\x01\x01\x02\x04\x05\xb4\x00\x00"s,
                              "\x01\x02\x04\x05\xb4\x01\x01\x01"s,
                              "\x04\x02\x08\x0a"s + std::string(8, 'x') + "\x02\x04\x05\xb4"s}) {
    auto frame = tcp_frame(options, 0, 0x02);
    const auto tcp = *find_tcp(frame);
    (void)complete_checksum(prepare_large_segment(frame, tcp, 1), frame);
    ASSERT_EQ(tcp_residue(frame), 0);
    const auto old = raise_mss(frame, tcp, 65480);
    ASSERT_TRUE(old);
    EXPECT_EQ(*old, 1460);
    EXPECT_EQ(tcp_residue(frame), 0) << "the checksum did not follow";
    EXPECT_FALSE(raise_mss(frame, tcp, 65480)) << "it is raised already";
  }
  for (const auto& options : {""s, "\x01\x01\x01\x01"s, "\x02\x00\x05\xb4"s, "\x02\x28\x05\xb4"s,
                              "\x01\x01\x01\x02"s, "\x00\x02\x04\x05"s}) {
    auto frame = tcp_frame(options, 0, 0x02);
    EXPECT_FALSE(raise_mss(frame, *find_tcp(frame), 65480));
  }
}

TEST(OffloadTest, CutsSegments) {
  auto frame = tcp_frame("\x01\x01\x01\x01", 3000, 0x19);
  const auto tcp = *find_tcp(frame);
  Bytes piece, whole;
  for (std::size_t at = 0; at < 3000; at += 1400) {
    const std::size_t length = std::min<std::size_t>(1400, 3000 - at);
    cut_segment(frame, tcp, at, length, piece);
    EXPECT_EQ(tcp_residue(piece), 0);
    EXPECT_EQ(plain_checksum(std::span(piece).subspan(14, 20)), 0);
    EXPECT_EQ(piece.size(), 58 + length);
    EXPECT_EQ(
        std::to_integer<std::size_t>(piece[40]) << 8 | std::to_integer<std::size_t>(piece[41]), at)
        << "the sequence number";
    EXPECT_EQ(piece[47], std::byte{at == 2800 ? std::uint8_t{0x19} : std::uint8_t{0x10}});
    whole.insert(whole.end(), piece.begin() + 58, piece.end());
  }
  EXPECT_TRUE(std::equal(whole.begin(), whole.end(), frame.begin() + 58));
}

// Segments of one stream, as libslirp makes them.
Bytes data_frame(std::uint32_t sequence, std::size_t payload, std::uint8_t flags = 0x10) {
  auto frame = tcp_frame("", payload, flags);
  const std::array<std::byte, 4> bytes = {
      static_cast<std::byte>(sequence >> 24), static_cast<std::byte>(sequence >> 16),
      static_cast<std::byte>(sequence >> 8), static_cast<std::byte>(sequence)};
  std::memcpy(&frame[38], bytes.data(), 4);
  return frame;
}

TEST(MergerTest, MergesWhatFollows) {
  Merger merger;
  EXPECT_TRUE(merger.empty());
  const auto first = data_frame(0xffffff00, 20'000);
  const auto tcp = *find_tcp(first);
  ASSERT_TRUE(Merger::takes(first, tcp));
  merger.start(first, tcp);
  EXPECT_FALSE(merger.merged());
  EXPECT_TRUE(std::ranges::equal(merger.frame(), first));
  EXPECT_TRUE(merger.append(data_frame(0xffffff00 + 20'000, 20'000), tcp)) << "it wraps";
  EXPECT_TRUE(merger.append(data_frame(0xffffff00 + 40'000, 500, 0x18), tcp));
  EXPECT_FALSE(merger.append(data_frame(0xffffff00 + 40'500, 500), tcp)) << "behind a push";
  const auto frame = merger.frame();
  EXPECT_EQ(frame.size(), 54u + 40'500);
  EXPECT_EQ(plain_checksum(frame.subspan(14, 20)), 0);
  EXPECT_EQ(frame[47], std::byte{0x18});
  const auto header = prepare_large_segment(frame, merger.view(), 1460);
  ASSERT_TRUE(complete_checksum(header, frame));
  EXPECT_EQ(tcp_residue(Bytes(frame.begin(), frame.end())), 0);
}

TEST(MergerTest, MergesNothingElse) {
  Merger merger;
  const auto first = data_frame(1000, 20'000);
  const auto tcp = *find_tcp(first);
  const auto refuses = [&](Bytes next) {
    merger.start(first, tcp);
    return !merger.append(next, tcp);
  };
  const auto right = data_frame(21'000, 100);
  EXPECT_FALSE(refuses(right));
  EXPECT_TRUE(refuses(data_frame(21'001, 100))) << "a gap";
  EXPECT_TRUE(refuses(data_frame(1000, 100))) << "sent again";
  for (const unsigned at : {26u, 30u, 34u, 36u, 42u, 48u}) {  // addresses, ports, ack, window
    auto other = right;
    other[at] ^= std::byte{1};
    EXPECT_TRUE(refuses(other)) << at;
  }
  merger.start(first, tcp);
  EXPECT_TRUE(merger.append(data_frame(21'000, 40'000), tcp));
  EXPECT_FALSE(merger.append(data_frame(61'000, 10'000), tcp)) << "more than an IP packet";
  for (const unsigned flags : {0x11u, 0x12u, 0x14u, 0x30u, 0x00u}) {
    EXPECT_FALSE(Merger::takes(data_frame(1, 100, static_cast<std::uint8_t>(flags)), tcp)) << flags;
  }
  EXPECT_FALSE(Merger::takes(data_frame(1, 0), tcp)) << "an acknowledgement";
}

TEST(OffloadTest, RemembersSegmentSizes) {
  auto out = tcp_frame("", 0, 0x02);
  auto back = out;
  std::memcpy(&back[26], &out[30], 4);
  std::memcpy(&back[30], &out[26], 4);
  std::memcpy(&back[34], &out[36], 2);
  std::memcpy(&back[36], &out[34], 2);
  SegmentSizes sizes;
  EXPECT_EQ(sizes.find(back, *find_tcp(back)), SegmentSizes::kFallback);
  sizes.remember(out, *find_tcp(out), 1400);
  EXPECT_EQ(sizes.find(back, *find_tcp(back)), 1400);
}

TEST(UserNetConfigTest, ArgumentsAndBack) {
  Config config;
  ASSERT_TRUE(config.set_network("192.168.7.0/24"));
  config.hostname = "db";
  config.ipv6 = true;
  config.host_loopback = true;
  config.denied = {IpNetwork::parse("169.254.169.254").value()};
  config.restricted = true;
  config.mtu = 9000;
  config.forwards = {HostForward::parse("tcp::8080-:80").value(),
                     HostForward::parse("udp:0.0.0.0:53-192.168.7.20:5353").value(),
                     HostForward::parse("tcp:[::1]:90-91-:90-91").value()};
  const auto back = from_arguments(to_arguments(config));
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(to_arguments(*back), to_arguments(config));
  EXPECT_EQ(back->forwards, config.forwards);
  EXPECT_EQ(back->denied, config.denied);
  EXPECT_TRUE(back->host_loopback);
  EXPECT_FALSE(from_arguments({})->host_loopback);
  EXPECT_EQ(back->dns.text(), "192.168.7.3");
  EXPECT_FALSE(from_arguments({"--bogus=1"}));
}

TEST(UserNetConfigTest, ForwardedPorts) {
  const auto text = [](std::string_view given) {
    const auto forward = HostForward::parse(given);
    return forward ? forward->text() : forward.error().message();
  };
  EXPECT_EQ(text("tcp::8080-:80"), "tcp:127.0.0.1:8080-:80");
  EXPECT_EQ(text("udp:0.0.0.0:53-10.0.2.16:5353"), "udp:0.0.0.0:53-10.0.2.16:5353");
  EXPECT_EQ(text("tcp::8000-8010-:9000-9010"), "tcp:127.0.0.1:8000-8010-:9000-9010");
  EXPECT_EQ(text("tcp::80-80-10.0.2.16:80-80"), "tcp:127.0.0.1:80-10.0.2.16:80");
  EXPECT_EQ(text("tcp:[::1]:8080-:80"), "tcp:[::1]:8080-:80");
  EXPECT_EQ(text("tcp:[::]:1-2-[fec0::15]:1-2"), "tcp:[::]:1-2-[fec0::15]:1-2");
  EXPECT_EQ(text("tcp::1-[fec0::15]:1"), "tcp:[::1]:1-[fec0::15]:1");
  for (const auto* bad : {"", "tcp", "tcp:", "tcp::80", "tcp::80-", "tcp::80-81", "tcp::80:81",
                          "sctp::80-:80", "tcp:[::1:80-:80", "tcp:[::1]80-:80", "tcp::1-:1-2-3"}) {
    EXPECT_FALSE(HostForward::parse(bad)) << bad << ": " << text(bad);
  }
  EXPECT_EQ(text("tcp::8010-8000-:8010-8000"),
            "forwarded port 'tcp::8010-8000-:8010-8000': 8010-8000 is not a range");
  EXPECT_EQ(text("tcp::8000-8010-:80"),
            "forwarded port 'tcp::8000-8010-:80': 11 ports of the host, and 1 of the guest");
  const auto check = [](std::string_view given, bool ipv6) {
    Config config;
    config.ipv6 = ipv6;
    config.forwards = {HostForward::parse(given).value()};
    const auto result = config.check();
    return result ? std::string() : result.error().message();
  };
  EXPECT_EQ(check("tcp:[::1]:8080-:80", true), "");
  EXPECT_EQ(check("tcp:[::1]:8080-:80", false),
            "forwarded port 'tcp:[::1]:8080-:80': IPv6 reaches the guest with ipv6=on");
  EXPECT_EQ(check("tcp:[::1]:8080-10.0.2.15:80", true),
            "forwarded port 'tcp:[::1]:8080-10.0.2.15:80': both ends need addresses of one family");
  EXPECT_EQ(check("tcp:[::1]:8080-[fd00::1]:80", true),
            "forwarded port 'tcp:[::1]:8080-[fd00::1]:80': fd00::1 is outside of the network "
            "fec0::/64");
  EXPECT_EQ(check("tcp::1-1025-:1-1025", false), "1025 forwarded ports: expected at most 1024");
}

}  // namespace
}  // namespace vmm::user_net
