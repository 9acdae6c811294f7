#include "src/disk/chunk_set.h"

#include <gtest/gtest.h>

#include <thread>

namespace vmm::disk {
namespace {

std::vector<std::uint64_t> members(const ChunkSet& set) {
  std::vector<std::uint64_t> all;
  for (auto n = set.next(0); n < set.size(); n = set.next(n + 1)) all.push_back(n);
  return all;
}

TEST(ChunkSet, HoldsWhatWasInserted) {
  for (const std::uint64_t size : {1ull, 64ull, 65ull, 1ull << 18, (1ull << 18) + 1, 1ull << 45}) {
    SCOPED_TRACE(size);
    ChunkSet set(size);
    EXPECT_EQ(set.next(0), size);
    EXPECT_FALSE(set.contains(size - 1));
    set.insert(size - 1);
    set.insert(size / 2);
    set.insert(0);
    set.insert(0);
    std::vector<std::uint64_t> expected{0, size / 2, size - 1};
    expected.erase(std::unique(expected.begin(), expected.end()), expected.end());
    EXPECT_EQ(members(set), expected);
    EXPECT_TRUE(set.contains(size - 1));
    ChunkSet copy(size);
    copy.insert(size / 3);
    copy.assign(set);
    EXPECT_EQ(members(copy), expected);
    set.clear();
    EXPECT_EQ(members(set).size(), 0u);
    EXPECT_EQ(members(copy), expected);
  }
  EXPECT_EQ(ChunkSet(0).next(0), 0u);
}

TEST(ChunkSet, ThreadsInsertTogether) {
  constexpr std::uint64_t kSize = 1u << 20;
  ChunkSet set(kSize);
  const auto fill = [&](std::uint64_t from) {
    for (std::uint64_t n = from; n < kSize; n += 2) set.insert(n);
  };
  std::thread odd([&] { fill(1); });
  fill(0);
  odd.join();
  EXPECT_EQ(members(set).size(), kSize);
}

}  // namespace
}  // namespace vmm::disk
