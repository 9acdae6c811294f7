#include "src/hypervisor/memory/guest_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <string>

#include "src/base/unique_fd.h"

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

class WindowTest : public ::testing::Test {
 protected:
  void SetUp() override {
    file_ = UniqueFd(::memfd_create("window", MFD_CLOEXEC));
    const std::string content = std::string(4096, 'a') + "b";
    ASSERT_EQ(::write(file_.get(), content.data(), content.size()),
              static_cast<ssize_t>(content.size()));
  }
  char at(GuestAddress address) const {
    const auto* host = memory_->source_pointer(address, 1);
    return host == nullptr ? '?' : static_cast<char>(*host);
  }
  UniqueFd file_;
  std::unique_ptr<GuestMemory> memory_ = std::move(*GuestMemory::create(kRanges));
};

TEST_F(WindowTest, LiesAboveAllMemoryAndIsOnlyRead) {
  const std::array parts = {
      WindowPart{.offset = 0x2000, .length = 1, .fd = file_.get(), .file_offset = 0x1000},
      WindowPart{.offset = 0x3000, .length = 0x1000, .fd = file_.get(), .file_offset = 0}};
  const auto window = memory_->add_window(2u << 20, parts);
  ASSERT_TRUE(window);
  EXPECT_EQ(window->value, 5ull << 30) << "the next multiple of 1 GiB behind the memory";
  EXPECT_EQ(at(*window), '\0');
  EXPECT_EQ(at(*window + 0x2000), 'b');
  EXPECT_EQ(at(*window + 0x2001), '\0');
  EXPECT_EQ(at(*window + 0x3fff), 'a');
  EXPECT_EQ(at(*window + (2u << 20)), '?');
  EXPECT_EQ(memory_->source_pointer(*window, (2u << 20) + 1), nullptr);
  EXPECT_EQ(memory_->source_pointer({UINT64_MAX}, 2), nullptr);
  EXPECT_EQ(memory_->host_pointer(*window, 1), nullptr) << "for who may write";
  EXPECT_FALSE(memory_->discard(*window, 4096));
  EXPECT_EQ(memory_->size(), 2u << 20) << "it is no memory of the guest's";
  EXPECT_EQ(*memory_->add_window(4096, {}), *window + (1u << 30));
}

TEST_F(WindowTest, RefusesAFileThatCannotBeMapped) {
  const std::array parts = {WindowPart{.offset = 0, .length = 4096, .fd = -1, .file_offset = 0}};
  EXPECT_FALSE(memory_->add_window(4096, parts));
  EXPECT_TRUE(memory_->windows().empty());
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

TEST(GuestMemory, KnowsWhatWasGivenBackSince) {
  const auto memory = std::move(GuestMemory::create(kRanges).value());
  const std::uint64_t low = kRanges[0].size;
  ASSERT_TRUE(memory->discard(GuestAddress{0x5000}, 0x1000));
  EXPECT_FALSE(memory->was_discarded(0x5000)) << "nobody asked";
  memory->record_discards();
  ASSERT_TRUE(memory->discard(GuestAddress{0x1800}, 0x2800));  // the pages 2 and 3
  ASSERT_TRUE(memory->discard(kRanges[1].base + 0x1000, 0x1000));
  for (const std::uint64_t page : {0x2000u, 0x3000u}) EXPECT_TRUE(memory->was_discarded(page));
  for (const std::uint64_t page : {0x1000u, 0x4000u, 0x5000u}) {
    EXPECT_FALSE(memory->was_discarded(page)) << page;
  }
  EXPECT_TRUE(memory->was_discarded(low + 0x1000)) << "counted in the flat memory";
  EXPECT_FALSE(memory->was_discarded(low));
  EXPECT_FALSE(memory->was_discarded(1ull << 60));
  memory->record_discards();
  EXPECT_FALSE(memory->was_discarded(0x2000));
}

constexpr std::uint64_t kPage = 4096;

std::size_t host_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t lines = 0;
  for (std::string line; std::getline(maps, line);) ++lines;
  return lines;
}

// Memory that starts as a file with 'f' in each page's first byte.
class MemoryOfAFile {
 public:
  explicit MemoryOfAFile(std::uint64_t pages) : file_(::memfd_create("memory", MFD_CLOEXEC)) {
    EXPECT_EQ(::ftruncate(file_.get(), static_cast<off_t>(pages * kPage)), 0);
    for (std::uint64_t page = 0; page < pages; ++page) {
      EXPECT_EQ(::pwrite(file_.get(), "f", 1, static_cast<off_t>(page * kPage)), 1);
    }
    const std::array ranges{MemoryRange{GuestAddress{0}, pages * kPage}};
    const std::array parts{FilePart{0, pages * kPage, file_.get()}};
    memory_ = std::move(*GuestMemory::create(ranges, parts));
  }
  const GuestMemory& operator*() const { return *memory_; }
  void discard(std::uint64_t page, std::uint64_t count = 1) const {
    ASSERT_TRUE(memory_->discard(GuestAddress{page * kPage}, count * kPage));
  }
  char first_byte(std::uint64_t page) const {
    return static_cast<char>(*memory_->read<std::uint8_t>(GuestAddress{page * kPage}));
  }
  void write(std::uint64_t page) const {
    ASSERT_TRUE(memory_->write(GuestAddress{page * kPage}, 'w'));
  }

 private:
  UniqueFd file_;
  std::unique_ptr<GuestMemory> memory_;
};

// A guest that gives every second page back, one by one, splits the mapping of the file each time.
TEST(GuestMemory, GivingBackSinglePagesTakesABoundedNumberOfMappings) {
  constexpr std::uint64_t kPages = 2 * GuestMemory::kMostOverlays + 4096;
  const MemoryOfAFile memory(kPages);
  const auto before = host_mappings();
  for (std::uint64_t page = 0; page < kPages; page += 2) memory.discard(page);
  const auto most = before + 2 * GuestMemory::kMostOverlays + 16;
  EXPECT_LE(host_mappings(), most);
  for (std::uint64_t page = 0; page < kPages; ++page) {
    ASSERT_EQ(memory.first_byte(page), page % 2 == 0 ? '\0' : 'f') << page;
  }
  // Again and the other way round, what was given back touched in between: neighbours that were
  // touched apart do not become one mapping.
  for (std::uint64_t page = 0; page < kPages; page += 2) memory.write(page);
  for (std::uint64_t page = kPages; page-- > 0;) memory.discard(page);
  EXPECT_LE(host_mappings(), most);
  for (std::uint64_t page = 0; page < kPages; ++page) ASSERT_EQ(memory.first_byte(page), '\0');
}

TEST(GuestMemory, WhatWasGivenBackOnceIsGivenBackAgain) {
  const MemoryOfAFile memory(16);
  memory.discard(2, 3);
  memory.discard(8, 2);
  const auto before = host_mappings();
  const auto resident = (*memory).resident();
  for (int round = 0; round < 3; ++round) {
    for (const std::uint64_t page : {2u, 3u, 4u, 8u, 9u}) memory.write(page);
    EXPECT_EQ((*memory).resident(), resident + 5 * kPage);
    memory.discard(3);
    memory.discard(2, 3);
    memory.discard(8);
    memory.discard(9);
    EXPECT_EQ((*memory).resident(), resident);
    EXPECT_LE(host_mappings(), before);
  }
  memory.discard(3, 6);  // over both, and what lies between
  for (std::uint64_t page = 0; page < 16; ++page) {
    EXPECT_EQ(memory.first_byte(page), page >= 2 && page < 10 ? '\0' : 'f') << page;
  }
}

}  // namespace
}  // namespace vmm
