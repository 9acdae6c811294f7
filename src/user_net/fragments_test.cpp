#include "src/user_net/fragments.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "src/user_net/packets_for_test.h"

namespace vmm::user_net {
namespace {

using namespace test;

constexpr std::uint16_t kMore = 0x2000;

std::string fragment(std::size_t offset, const std::string& data, bool more, std::uint16_t id = 7) {
  return ipv4_frame(
      ipv4(192, 0, 2, 1), data,
      {.id = id, .place = static_cast<std::uint16_t>(offset / 8 | (more ? kMore : 0))});
}

class FragmentsTest : public ::testing::Test {
 protected:
  std::string add(const std::string& frame, std::int64_t now_ms = 0) {
    EXPECT_TRUE(Fragments::is_fragment(span_of(frame)));
    const auto whole = fragments_.add(span_of(frame), now_ms);
    return {reinterpret_cast<const char*>(whole.data()), whole.size()};
  }
  Fragments fragments_;
};

TEST_F(FragmentsTest, PutTogetherInAnyOrder) {
  const std::string a(1480, 'a'), b(1480, 'b'), c(5, 'c');
  std::vector<std::string> parts = {fragment(0, a, true), fragment(1480, b, true),
                                    fragment(2960, c, false)};
  const auto expected = ipv4_frame(ipv4(192, 0, 2, 1), a + b + c, {.id = 7});
  std::ranges::sort(parts);
  do {
    EXPECT_EQ(add(parts[0]), "");
    EXPECT_EQ(add(parts[1]), "");
    EXPECT_EQ(add(parts[2]), expected);
  } while (std::ranges::next_permutation(parts).found);
  EXPECT_FALSE(Fragments::is_fragment(span_of(expected)));
}

TEST_F(FragmentsTest, PacketsAreToldApart) {
  EXPECT_EQ(add(fragment(0, std::string(8, 'a'), true, 1)), "");
  EXPECT_EQ(add(fragment(0, std::string(8, 'b'), true, 2)), "");
  EXPECT_EQ(add(fragment(8, "x", false, 1)).substr(34), "aaaaaaaax");
  EXPECT_EQ(add(fragment(8, "y", false, 2)).substr(34), "bbbbbbbby");
}

TEST_F(FragmentsTest, OverlapsEndTheirPacket) {
  EXPECT_EQ(add(fragment(0, std::string(16, 'a'), true)), "");
  EXPECT_EQ(add(fragment(8, std::string(16, 'b'), true)), "");
  EXPECT_EQ(add(fragment(24, "c", false)), "");
  EXPECT_EQ(add(fragment(0, std::string(24, 'd'), true)).substr(34), std::string(24, 'd') + "c");
  // Beyond the end, and an end before what is there.
  EXPECT_EQ(add(fragment(8, "e", false)), "");
  EXPECT_EQ(add(fragment(16, std::string(8, 'f'), true)), "");
  EXPECT_EQ(add(fragment(16, std::string(8, 'f'), true)), "");
  EXPECT_EQ(add(fragment(8, "g", false)), "");
  EXPECT_EQ(add(fragment(0, std::string(8, 'h'), true)), "");
}

TEST_F(FragmentsTest, OldPacketsAreForgotten) {
  EXPECT_EQ(add(fragment(0, std::string(8, 'a'), true), 0), "");
  EXPECT_EQ(add(fragment(8, "b", false), Fragments::kPatienceMs), "");
}

TEST_F(FragmentsTest, ImpossibleOnes) {
  EXPECT_EQ(add(fragment(0, "not eight", true)), "");
  EXPECT_EQ(add(fragment(65528, std::string(100, 'x'), false)), "") << "the ping of death";
  EXPECT_EQ(add(fragment(8, "", true)), "");
  auto bad = fragment(0, std::string(8, 'a'), true);
  bad[14] = '\x4f';  // a header longer than the packet
  EXPECT_EQ(add(bad), "");
  // A longer first header: together more than a packet can be.
  EXPECT_EQ(add(fragment(8, std::string(65504, 'x'), false)), "");
  EXPECT_EQ(add(ipv4_frame(ipv4(192, 0, 2, 1), std::string(8, 'a'),
                           {.id = 7, .place = kMore, .options = std::string(40, 1)})),
            "");
}

TEST_F(FragmentsTest, AFloodIsBounded) {
  const std::string most(65504, 'x');
  for (std::uint32_t id = 0; id < 20'000; ++id) {
    // The last one first, so that each is as large as can be at once.
    EXPECT_EQ(add(fragment(8, id % 16 == 0 ? most : "x", false, static_cast<std::uint16_t>(id)),
                  id / 1000),
              "");
  }
  EXPECT_LE(fragments_.size(), Fragments::kPackets * (64u << 10) + (64u << 10));
}

}  // namespace
}  // namespace vmm::user_net
