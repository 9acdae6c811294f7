#include <gtest/gtest.h>

#include "src/hypervisor/state/sections.h"

namespace vmm::state {
namespace {

enum class Color : std::uint8_t { red = 1, blue = 2 };

struct Inner {
  std::uint16_t a = 0;
  bool b = false;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, a);
    archive(2, b);
  }
  friend bool operator==(const Inner&, const Inner&) = default;
};

struct Kernel {
  std::uint32_t x;
  std::uint32_t y;
  friend bool operator==(const Kernel&, const Kernel&) = default;
};

struct Outer {
  static constexpr std::string_view kKind = "outer";
  static constexpr std::uint32_t kVersion = 3;
  std::int64_t number = 0;
  Color color = Color::red;
  std::string text;
  std::vector<std::byte> bytes;
  std::array<std::uint16_t, 2> pair{};
  std::vector<Inner> inners;
  Inner inner;
  Kernel kernel{};
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, number);
    archive(2, color);
    archive(3, text);
    archive(4, bytes);
    archive(5, pair);
    archive(6, inners);
    archive(7, inner);
    archive(8, raw(kernel));
  }
  friend bool operator==(const Outer&, const Outer&) = default;
};

Outer example() {
  return {
      -5,        Color::blue, "text", {std::byte{1}, std::byte{2}}, {7, 8}, {{1, true}, {2, false}},
      {3, true}, {11, 12}};
}

TEST(Archive, ReadsBackWhatItWrote) {
  const auto bytes = encode(example());
  const auto back = decode<Outer>(bytes);
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(*back, example());
}

TEST(Archive, HasTheseBytes) {
  const auto bytes = encode(Inner{0x1234, true});
  const std::vector<std::uint8_t> golden = {1, 0, 2, 0, 0, 0, 0x34, 0x12, 2, 0, 1, 0, 0, 0, 1};
  ASSERT_EQ(bytes.size(), golden.size());
  for (std::size_t i = 0; i < golden.size(); ++i) {
    EXPECT_EQ(std::to_integer<int>(bytes[i]), golden[i]) << i;
  }
}

TEST(Archive, RefusesEveryTruncation) {
  const auto bytes = encode(example());
  for (std::size_t size = 1; size < bytes.size(); ++size) {
    const auto back = decode<Outer>(std::span(bytes).first(size));
    // Cut between two fields it is an older state, whose missing fields keep their defaults.
    if (back) {
      EXPECT_NE(*back, example());
    }
  }
}

TEST(Archive, RefusesAnUnknownField) {
  Encoder encoder;
  encoder(1, std::uint16_t{1});
  encoder(9, std::uint16_t{1});
  const auto back = decode<Inner>(encoder.take());
  ASSERT_FALSE(back);
  EXPECT_EQ(back.error().message(), "field 9 is not known to this program");
}

TEST(Archive, RefusesAFieldThatIsThereTwice) {
  Encoder encoder;
  encoder(1, std::uint16_t{1});
  encoder(1, std::uint16_t{2});
  EXPECT_FALSE(decode<Inner>(encoder.take()));
}

TEST(Archive, RefusesAnotherSize) {
  Encoder encoder;
  encoder(1, std::uint32_t{1});
  const auto back = decode<Inner>(encoder.take());
  ASSERT_FALSE(back);
  EXPECT_EQ(back.error().message(), "field 1: 4 bytes instead of 2");
}

TEST(Archive, KeepsTheDefaultOfAMissingField) {
  Encoder encoder;
  encoder(1, std::uint16_t{5});
  const auto back = decode<Inner>(encoder.take());
  ASSERT_TRUE(back);
  EXPECT_EQ(*back, (Inner{5, false}));
}

TEST(Sections, GoThroughBytes) {
  Sections sections;
  sections.put("one", example());
  auto back = Sections::from_bytes(sections.to_bytes());
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_FALSE(back->check_all_taken());
  const auto state = back->take<Outer>("one");
  ASSERT_TRUE(state);
  EXPECT_EQ(*state, example());
  EXPECT_TRUE(back->check_all_taken());
  EXPECT_FALSE(back->take<Outer>("one")) << "a state is taken once";
  EXPECT_FALSE(back->take<Outer>("two"));
}

struct OtherVersion : Outer {
  static constexpr std::uint32_t kVersion = 4;
};
struct OtherKind : Outer {
  static constexpr std::string_view kKind = "other";
};

TEST(Sections, RefuseAnotherKindOrVersion) {
  Sections sections;
  sections.put("one", example());
  const auto version = sections.take<OtherVersion>("one");
  ASSERT_FALSE(version);
  EXPECT_EQ(version.error().message(),
            "the state of one has version 3, this program reads version 4");
  EXPECT_FALSE(sections.take<OtherKind>("one"));
}

TEST(Sections, RefuseForeignBytes) {
  Sections sections;
  sections.put("one", example());
  auto bytes = sections.to_bytes();
  EXPECT_FALSE(Sections::from_bytes(std::span(bytes).first(4)));
  bytes[0] = std::byte{0};
  EXPECT_FALSE(Sections::from_bytes(bytes));
}

}  // namespace
}  // namespace vmm::state
