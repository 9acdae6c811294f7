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

struct Pair {
  std::uint32_t a = 0;
  std::uint32_t b = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, a);
    archive(2, b);
  }
  friend bool operator==(const Pair&, const Pair&) = default;
};

struct Lists {
  static constexpr std::string_view kKind = "lists";
  static constexpr std::uint32_t kVersion = 1;
  std::vector<Pair> long_one;
  std::vector<Pair> short_one;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, former(long_one));
    archive(2, short_one);
    archive(3, flat(long_one));
  }
  friend bool operator==(const Lists&, const Lists&) = default;
};

TEST(Archive, HasFlatLists) {
  const Lists lists{{{1, 2}, {3, 4}}, {{5, 6}}};
  const auto bytes = encode(lists);
  EXPECT_EQ(bytes.size(), 6u + (6 + 6 + 20) + (6 + 16));
  const auto back = decode<Lists>(bytes);
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(*back, lists);
  EXPECT_EQ(encode(Lists{}).size(), 2 * 6u) << "an empty list is left out";
}

TEST(Archive, ReadsTheListThatAFlatOneReplaced) {
  Encoder encoder;
  const std::vector<Pair> pairs = {{1, 2}, {3, 4}};
  encoder(1, pairs);
  const auto bytes = encoder.take();
  EXPECT_EQ(decode<Lists>(bytes)->long_one, pairs);
  Encoder both;
  auto copy = pairs;
  both(1, pairs);
  both(3, flat(copy));
  EXPECT_EQ(decode<Lists>(both.take()).error().message(), "field 3: the list is there twice");
  Encoder odd;
  odd(3, std::uint32_t{1});
  EXPECT_EQ(decode<Lists>(odd.take()).error().message(), "field 3: 4 bytes are not a list");
}

TEST(Archive, HasTheSameLimitsInBothDirections) {
  Lists lists;
  lists.long_one.resize(2 * kMaxElements);
  EXPECT_TRUE(encode_readable(lists));
  lists.short_one.resize(kMaxElements);
  EXPECT_TRUE(encode_readable(lists));
  lists.short_one.resize(kMaxElements + 1);
  EXPECT_FALSE(encode_readable(lists));
  lists.short_one.clear();
  lists.long_one.resize(kMaxBytes / sizeof(Pair));
  EXPECT_FALSE(encode_readable(lists));
}

TEST(Archive, RefusesAFloodOfFields) {
  Encoder encoder;
  for (std::size_t i = 0; i <= kMaxFields; ++i) encoder(1, std::uint16_t{1});
  EXPECT_EQ(decode<Inner>(encoder.take()).error().message(), "more than 1024 fields");
}

TEST(Sections, AreNotMadeOfWhatCannotBeReadAgain) {
  Lists lists;
  lists.short_one.resize(kMaxElements + 1);
  Sections sections;
  sections.put("one", lists);
  const auto bytes = sections.to_bytes();
  ASSERT_FALSE(bytes);
  EXPECT_NE(bytes.error().message().find("state of one: "), std::string::npos)
      << bytes.error().message();
  Sections twice;
  twice.put("one", Lists{});
  twice.put("one", Lists{});
  EXPECT_EQ(twice.to_bytes().error().message(), "the state of one is there twice");
}

// By itself or in the whole: their number costs no more than their bytes.
TEST(Sections, ManyAreReadInNoTime) {
  Sections sections;
  for (std::size_t i = 0; i < 100'000; ++i) sections.put(std::to_string(i), Lists{});
  const auto bytes = sections.to_bytes();
  ASSERT_TRUE(bytes) << bytes.error().message();
  EXPECT_TRUE(Sections::from_bytes(*bytes));
}

TEST(Sections, GoThroughBytes) {
  Sections sections;
  sections.put("one", example());
  auto back = Sections::from_bytes(sections.to_bytes().value());
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
  auto bytes = sections.to_bytes().value();
  EXPECT_FALSE(Sections::from_bytes(std::span(bytes).first(4)));
  bytes[0] = std::byte{0};
  EXPECT_FALSE(Sections::from_bytes(bytes));
}

}  // namespace
}  // namespace vmm::state
