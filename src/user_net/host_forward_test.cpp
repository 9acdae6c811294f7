#include <gtest/gtest.h>

#include "src/user_net/config.h"

namespace vmm::user_net {
namespace {

HostForward forward(const char* text) { return HostForward::parse(text).value(); }
HostForward host_end(const char* text) { return HostForward::parse_host_end(text).value(); }

std::vector<std::string> texts(const std::vector<HostForward>& forwards) {
  std::vector<std::string> result;
  for (const auto& one : forwards) result.push_back(one.text());
  return result;
}

TEST(HostForward, TheHostsEndAlone) {
  const std::pair<const char*, const char*> cases[] = {
      {"tcp::8080", "tcp:127.0.0.1:8080"},
      {"udp:0.0.0.0:53", "udp:0.0.0.0:53"},
      {"tcp:[::1]:80", "tcp:[::1]:80"},
      {"tcp::8000-8010", "tcp:127.0.0.1:8000-8010"},
  };
  for (const auto& [text, whole] : cases) EXPECT_EQ(host_end(text).host_end_text(), whole);
  for (const char* text : {"", "8080", "tcp:8080", "tcp::", "sctp::80", "tcp::80-:80", "tcp::80-",
                           "tcp::80 ", "tcp:[::1:80"}) {
    const auto parsed = HostForward::parse_host_end(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_FALSE(parsed.error().message().contains("forwarded")) << parsed.error().message();
  }
  EXPECT_EQ(HostForward::parse_host_end("tcp::80-:80").error().message(),
            "'tcp::80-:80' is not a port of the host: tcp:[ADDRESS]:PORT is, such as tcp::8080, "
            "tcp::8000-8010 or tcp:[::1]:8080");
  EXPECT_FALSE(HostForward::parse_host_end("tcp::70000"));
  EXPECT_FALSE(HostForward::parse_host_end("tcp::90-80"));
}

TEST(HostForward, OverlapsByProtocolAddressAndPort) {
  const auto range = forward("tcp::8000-8010-:1000-1010");
  EXPECT_TRUE(range.overlaps(host_end("tcp::8010")));
  EXPECT_TRUE(range.overlaps(host_end("tcp::7000-8000")));
  EXPECT_TRUE(range.overlaps(host_end("tcp::8003-8004")));
  EXPECT_FALSE(range.overlaps(host_end("tcp::8011")));
  EXPECT_FALSE(range.overlaps(host_end("tcp::7999")));
  EXPECT_FALSE(range.overlaps(host_end("udp::8000")));
  EXPECT_FALSE(range.overlaps(host_end("tcp:0.0.0.0:8000")));
}

TEST(HostForward, WithoutSomeOfARangeTheRestIsLeft) {
  const std::vector<HostForward> all = {forward("tcp::8000-8010-:1000-1010"),
                                        forward("udp::53-:53"), forward("tcp::8011-:2000")};
  EXPECT_EQ(
      texts(without(all, host_end("udp::53")).value()),
      (std::vector<std::string>{"tcp:127.0.0.1:8000-8010-:1000-1010", "tcp:127.0.0.1:8011-:2000"}));
  EXPECT_EQ(texts(without(all, host_end("tcp::8003-8004")).value()),
            (std::vector<std::string>{"tcp:127.0.0.1:8000-8002-:1000-1002",
                                      "tcp:127.0.0.1:8005-8010-:1005-1010", "udp:127.0.0.1:53-:53",
                                      "tcp:127.0.0.1:8011-:2000"}));
  EXPECT_EQ(texts(without(all, host_end("tcp::8000")).value())[0],
            "tcp:127.0.0.1:8001-8010-:1001-1010");
  // Over the border of two.
  EXPECT_EQ(
      texts(without(all, host_end("tcp::8010-8011")).value()),
      (std::vector<std::string>{"tcp:127.0.0.1:8000-8009-:1000-1009", "udp:127.0.0.1:53-:53"}));
  EXPECT_EQ(without(all, host_end("tcp::8000-8012")).error().message(),
            "tcp:127.0.0.1:8012 is not published");
  EXPECT_EQ(without({}, host_end("tcp::1-65535")).error().message(),
            "tcp:127.0.0.1:1 is not published");
}

}  // namespace
}  // namespace vmm::user_net
