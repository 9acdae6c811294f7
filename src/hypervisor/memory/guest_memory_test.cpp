#include "src/hypervisor/memory/guest_memory.h"

#include <gtest/gtest.h>

#include <array>

namespace vmm {
namespace {

constexpr std::array<MemoryRange, 2> kRanges = {MemoryRange{GuestAddress{0}, 1u << 20},
                                                MemoryRange{GuestAddress{4ull << 30}, 1u << 20}};

TEST(GuestMemory, ReadsBackWhatWasWritten) {
  auto memory = std::move(*GuestMemory::create(kRanges));
  EXPECT_EQ(memory->size(), 2u << 20);
  ASSERT_TRUE(memory->write(GuestAddress{0x1001}, std::uint32_t{0xdeadbeef}));
  EXPECT_EQ(*memory->read<std::uint32_t>(GuestAddress{0x1001}), 0xdeadbeefu);
  ASSERT_TRUE(memory->write(GuestAddress{(4ull << 30) + 8}, std::uint64_t{7}));
  EXPECT_EQ(*memory->read<std::uint64_t>(GuestAddress{(4ull << 30) + 8}), 7u);
}

TEST(GuestMemory, RefusesWhatIsOutside) {
  auto memory = std::move(*GuestMemory::create(kRanges));
  EXPECT_FALSE(memory->slice(GuestAddress{(1u << 20) - 1}, 2));  // crosses the end
  EXPECT_FALSE(memory->slice(GuestAddress{1u << 20}, 1));        // in the hole
  EXPECT_FALSE(memory->slice(GuestAddress{UINT64_MAX}, 2));      // wraps
  EXPECT_FALSE(memory->slice(GuestAddress{0x1000}, UINT64_MAX));
  EXPECT_TRUE(memory->slice(GuestAddress{(1u << 20) - 1}, 1));
}

TEST(GuestMemory, DiscardZeroesWholePagesOnly) {
  auto memory = std::move(*GuestMemory::create(kRanges));
  for (std::uint64_t at : {0x1000u, 0x2000u, 0x3000u}) {
    ASSERT_TRUE(memory->write(GuestAddress{at}, std::uint8_t{1}));
  }
  ASSERT_TRUE(memory->discard(GuestAddress{0x1800}, 0x1800));  // only page 2 lies inside
  EXPECT_EQ(*memory->read<std::uint8_t>(GuestAddress{0x1000}), 1);
  EXPECT_EQ(*memory->read<std::uint8_t>(GuestAddress{0x2000}), 0);
  EXPECT_EQ(*memory->read<std::uint8_t>(GuestAddress{0x3000}), 1);
}

}  // namespace
}  // namespace vmm
