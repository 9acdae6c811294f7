#include "src/protocol/agent.h"

#include <gtest/gtest.h>

namespace vmm::protocol::agent {
namespace {

TEST(AgentProtocol, HeadersAreEchoedOrRefused) {
  Header header{Kind::terminal, {}};
  header.process[15] = std::byte{7};
  const HeaderBytes bytes = encode(header);
  const auto again = decode_header(bytes);
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->kind, Kind::terminal);
  EXPECT_EQ(again->process, header.process);

  for (const std::size_t broken : {0uz, 3uz, 4uz, 5uz, 6uz}) {
    HeaderBytes bad = bytes;
    bad[broken] = std::byte{0x77};
    EXPECT_FALSE(decode_header(bad)) << broken;
  }
}

TEST(AgentProtocol, StartRoundTrips) {
  Start start;
  start.arguments = {"sh", "-c", "", "\xff\xfe is not UTF-8"};
  start.environment = {"A=1", "B="};
  start.user = "www-data:33";
  start.terminal = TerminalSize{132, 43};
  start.lost_output = LostOutput::is_dropped;
  start.limits = {{7, 1024, ~std::uint64_t{0}}};
  start.container.emplace();
  start.container->mounts = {{Mount::Type::tmpfs, "", "/tmp", "size=1m", true}};
  start.container->sysctls = {{"net.core.somaxconn", "1024"}};
  start.container->memory_limit = 64u << 20;
  MessageReader reader;
  reader.append(encode(start));
  const auto message = reader.next();
  ASSERT_TRUE(message && *message);
  const auto again = decode<Start>(**message);
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->arguments, start.arguments);
  EXPECT_EQ(again->environment, start.environment);
  EXPECT_EQ(again->user, start.user);
  ASSERT_TRUE(again->terminal);
  EXPECT_EQ(again->terminal->columns, 132);
  EXPECT_EQ(again->lost_output, LostOutput::is_dropped);
  ASSERT_EQ(again->limits.size(), 1u);
  EXPECT_EQ(again->limits[0].hard, ~std::uint64_t{0});
  ASSERT_TRUE(again->container);
  ASSERT_EQ(again->container->mounts.size(), 1u);
  EXPECT_TRUE(again->container->mounts[0].read_only);
  EXPECT_EQ(again->container->sysctls[0].value, "1024");
  EXPECT_EQ(again->container->memory_limit, 64u << 20);
  EXPECT_FALSE(again->container->process_limit);
  EXPECT_FALSE(decode<Resize>(**message)) << "another message";
}

TEST(AgentProtocol, MessagesInAnyPieces) {
  const std::string bytes = encode(Signal{15}) + encode(Resize{{80, 25}}) + encode(Follow{});
  MessageReader reader;
  std::vector<std::uint8_t> types;
  for (const char byte : bytes) {
    reader.append({&byte, 1});
    const auto message = reader.next();
    ASSERT_TRUE(message);
    if (*message) types.push_back((*message)->type);
  }
  EXPECT_EQ(types, (std::vector<std::uint8_t>{Signal::kType, Resize::kType, Follow::kType}));
  reader.append(bytes);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(*reader.next());
  EXPECT_FALSE(*reader.next());
}

TEST(AgentProtocol, LengthsAreBounded) {
  MessageReader empty, long_one;
  empty.append(std::string(4, '\0'));
  EXPECT_FALSE(empty.next());
  std::string length;
  append_integer(length, kMaxMessage + 1, 4);
  long_one.append(length);
  EXPECT_FALSE(long_one.next());
}

// Fields as numbers, lengths and values by hand.
std::string field(std::uint8_t number, std::string_view value) {
  std::string out;
  append_integer(out, number, 1);
  append_integer(out, value.size(), 4);
  return out + std::string(value);
}
std::string number(std::uint64_t value) {
  std::string out;
  append_integer(out, value, 8);
  return out;
}

TEST(AgentProtocol, FieldsThatAreMissingOrUnknown) {
  const auto empty = decode_fields<Start>("");
  ASSERT_TRUE(empty);
  EXPECT_EQ(empty->umask, 022u);
  EXPECT_EQ(empty->capabilities, kDefaultCapabilities);
  const auto newer = decode_fields<Signal>(field(1, number(9)) + field(200, "who knows"));
  ASSERT_TRUE(newer);
  EXPECT_EQ(newer->number, 9);
}

TEST(AgentProtocol, RefusesValuesThatDoNotFit) {
  EXPECT_FALSE(decode_fields<Signal>(field(1, number(256))));
  EXPECT_FALSE(decode_fields<Signal>(field(1, "12")));
  EXPECT_FALSE(decode_fields<Start>(field(1, std::string_view("a\0b", 3)))) << "a NUL in a text";
  EXPECT_FALSE(decode_fields<Start>(field(7, number(2)))) << "not a bool";
  EXPECT_FALSE(decode_fields<Start>(field(9, number(2)))) << "no such value";
  EXPECT_FALSE(decode_fields<Start>(field(6, field(1, number(65536))))) << "in a message within";
  EXPECT_FALSE(decode_fields<Signal>(field(1, number(9)) + "abc")) << "a head cut off";
  EXPECT_FALSE(decode_fields<Signal>(field(1, number(9)).substr(0, 9))) << "a value cut off";
  EXPECT_FALSE(decode_fields<Signal>([] {
    std::string many;
    for (int i = 0; i < 65537; ++i) many += field(2, "");
    return many;
  }()));
}

TEST(AgentProtocol, DefaultCapabilitiesAreDockers) {
  std::vector<unsigned> numbers;
  for (unsigned i = 0; i < 64; ++i) {
    if (kDefaultCapabilities >> i & 1) numbers.push_back(i);
  }
  EXPECT_EQ(numbers, (std::vector<unsigned>{0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}));
}

}  // namespace
}  // namespace vmm::protocol::agent
