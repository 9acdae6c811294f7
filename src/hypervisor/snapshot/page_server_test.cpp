#include "src/hypervisor/snapshot/page_server.h"

#include <sys/wait.h>

#include <random>
#include <thread>

#include "src/hypervisor/snapshot/export.h"
#include "src/hypervisor/snapshot/snapshot_fixture.h"

namespace vmm::snapshot {
namespace {

constexpr std::uint64_t kHigh = 4ull << 30;  // where the second range begins

class PageServerTest : public SnapshotTest {
 protected:
  // memory_ as an archive.
  Result<std::shared_ptr<const PackedMemory>> pack(const std::string& name = "one") {
    TRY(save(name));
    const auto reader = TRY(Reader::open(path(name)));
    TRY(export_snapshot(*reader, path(name + ".vmm"), {}));
    return std::make_shared<const PackedMemory>(TRY(Archive::open(path(name + ".vmm"))));
  }
  // The server of a fresh memory; null when this host has none, which is said.
  std::unique_ptr<PageServer> serve(std::shared_ptr<const PackedMemory> packed) {
    std::vector<MemoryRange> ranges;
    for (const auto& region : memory_->regions()) ranges.push_back(region.range);
    served_ = std::move(*GuestMemory::create(ranges));
    auto server = PageServer::start(std::move(packed), *served_,
                                    [this](const std::string& text) { damage_.set_value(text); });
    if (server) return std::move(*server);
    refusal_ = server.error().message();
    return nullptr;
  }
  void fill_noise(GuestAddress at, std::size_t size, unsigned seed) const {
    std::mt19937 random(seed);
    const auto bytes = memory_->slice(at, size).value();
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  }
  static bool equal(const GuestMemory& one, const GuestMemory& other) {
    for (std::size_t i = 0; i < one.regions().size(); ++i) {
      const auto& region = one.regions()[i];
      if (std::memcmp(region.host, other.regions()[i].host, region.range.size) != 0) return false;
    }
    return true;
  }
  std::uint64_t there() const { return served_->resident() / kPage; }
  // What a frame has beside the page that was waited for comes a little later.
  bool becomes(std::uint64_t pages) const {
    for (int i = 0; i < 6000 && there() < pages; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return there() >= pages;
  }

  std::unique_ptr<GuestMemory> served_;
  std::promise<std::string> damage_;
  std::string refusal_;
};

#define SERVE_OR_SKIP(server, packed)                                \
  const auto packed_##server = (packed);                             \
  ASSERT_TRUE(packed_##server) << packed_##server.error().message(); \
  auto server = serve(*packed_##server);                             \
  if (!server) GTEST_SKIP() << "this host does not permit it: " << refusal_

TEST_F(PageServerTest, PutsInWhatIsTouchedAndItsFrame) {
  fill_noise(GuestAddress{0x10000}, 128 * kPage, 1);
  fill_noise(GuestAddress{kHigh + 0x10000}, 100 * kPage, 2);
  SERVE_OR_SKIP(server, pack());
  EXPECT_EQ(there(), 0u);
  EXPECT_EQ(first_byte(*served_, kPage), 'a');
  EXPECT_TRUE(becomes(100)) << "the rest of the frame";
  EXPECT_LE(there(), 128u);
  EXPECT_EQ(first_byte(*served_, kHigh + 3 * kPage), 'c');
  EXPECT_TRUE(becomes(200));
  EXPECT_TRUE(equal(*memory_, *served_));
}

TEST_F(PageServerTest, PutsEqualPagesInEverywhere) {
  for (std::uint64_t page = 10; page < 200; page += 3) fill(GuestAddress{page * kPage}, 'e');
  SERVE_OR_SKIP(server, pack());
  EXPECT_EQ(first_byte(*served_, 100 * kPage), 'e');
  EXPECT_TRUE(becomes(64));
  EXPECT_TRUE(equal(*memory_, *served_));
}

TEST_F(PageServerTest, WritesGoBesidesWhatIsPutIn) {
  fill_noise(GuestAddress{0x10000}, 200 * kPage, 3);
  SERVE_OR_SKIP(server, pack());
  // A write is a fault as well, and stays when the rest of the frame comes.
  ASSERT_TRUE(served_->write(GuestAddress{0x10000 + 5}, 'w'));
  ASSERT_TRUE(memory_->write(GuestAddress{0x10000 + 5}, 'w'));
  ASSERT_TRUE(server->finish());
  EXPECT_TRUE(equal(*memory_, *served_));
}

TEST_F(PageServerTest, ServesMemoryOfAllSizesWithLongZeroes) {
  constexpr std::array<MemoryRange, 2> kLarge = {MemoryRange{GuestAddress{0}, 32u << 20},
                                                 MemoryRange{GuestAddress{kHigh}, 4u << 20}};
  memory_ = std::move(*GuestMemory::create(kLarge));
  fill_noise(GuestAddress{(9u << 20) + 7 * kPage}, 5 * kPage, 4);
  fill_noise(GuestAddress{(10u << 20) - kPage}, kPage, 5);
  fill_noise(GuestAddress{kHigh + (4u << 20) - kPage}, kPage, 6);
  fill_noise(GuestAddress{(32u << 20) - kPage}, kPage, 7);
  SERVE_OR_SKIP(server, pack());
  EXPECT_EQ(first_byte(*served_, 9u << 20), 0);
  EXPECT_LE(there(), 512u) << "zeroes around it, of 2 MiB";
  EXPECT_TRUE(equal(*memory_, *served_));
}

TEST_F(PageServerTest, GivenBackPagesAreZeroBeforeAndAfter) {
  fill_noise(GuestAddress{0x10000}, 200 * kPage, 8);
  SERVE_OR_SKIP(server, pack());
  // Given back before anything of its frame is there, and after.
  ASSERT_TRUE(served_->discard(GuestAddress{0x10000 + 3 * kPage}, 2 * kPage));
  EXPECT_EQ(there(), 0u);
  EXPECT_EQ(first_byte(*served_, kPage), 'a');
  ASSERT_TRUE(served_->discard(GuestAddress{kPage}, kPage));
  ASSERT_TRUE(served_->discard(GuestAddress{0x10000 + 150 * kPage}, 10 * kPage));
  ASSERT_TRUE(server->finish());
  server.reset();
  for (const auto& [page, count] : {std::pair{19, 2}, {1, 1}, {166, 10}}) {
    const auto bytes = memory_->slice(GuestAddress{static_cast<std::uint64_t>(page) * kPage},
                                      static_cast<std::uint64_t>(count) * kPage);
    std::ranges::fill(*bytes, std::byte{0});
  }
  EXPECT_TRUE(equal(*memory_, *served_));
}

TEST_F(PageServerTest, WhatTheKernelDropsIsZeroAndNotServedAgain) {
  SERVE_OR_SKIP(server, pack());
  EXPECT_EQ(first_byte(*served_, kPage), 'a');
  ASSERT_EQ(::madvise(served_->host_pointer(GuestAddress{0}, 1), 16 * kPage, MADV_DONTNEED), 0);
  EXPECT_EQ(first_byte(*served_, kPage), 0);
  EXPECT_EQ(first_byte(*served_, 2 * kPage), 0);
}

TEST_F(PageServerTest, FaultsOfTheKernelAreServed) {
  SERVE_OR_SKIP(server, pack());
  const UniqueFd file(::open(path("out").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const auto* page = served_->host_pointer(GuestAddress{kPage}, kPage);
  ASSERT_EQ(::pwrite(file.get(), page, kPage, 0), static_cast<ssize_t>(kPage));
  std::array<char, 1> first{};
  ASSERT_EQ(::pread(file.get(), first.data(), 1, 0), 1);
  EXPECT_EQ(first[0], 'a');
}

TEST_F(PageServerTest, ManyThreadsTouchAndGiveBackAtOnce) {
  fill_noise(GuestAddress{0}, 1u << 20, 9);
  fill_noise(GuestAddress{kHigh}, 1u << 20, 10);
  SERVE_OR_SKIP(server, pack());
  std::atomic<unsigned> wrong{0};
  {
    std::vector<std::jthread> threads;
    for (unsigned seed = 0; seed < 4; ++seed) {
      threads.emplace_back([&, seed] {
        std::mt19937 random(seed);
        for (int i = 0; i < 2000; ++i) {
          // Each thread gives back pages of its own, and reads all.
          const std::uint64_t page = random() % 512;
          const GuestAddress at{page < 256 ? page * kPage : kHigh + (page - 256) * kPage};
          if (page % 16 == seed) {
            if (!served_->discard(at, kPage) || first_byte(*served_, at.value) != 0) ++wrong;
            continue;
          }
          const char got = first_byte(*served_, at.value);
          const bool may_be_zero = page % 16 < 4;
          if (got != first_byte(*memory_, at.value) && !(may_be_zero && got == 0)) ++wrong;
        }
      });
    }
    ASSERT_TRUE(server->finish());
  }
  EXPECT_EQ(wrong, 0u);
}

TEST_F(PageServerTest, FinishedMemoryIsWholeInAFork) {
  fill_noise(GuestAddress{0x10000}, 200 * kPage, 11);
  SERVE_OR_SKIP(server, pack());
  ASSERT_TRUE(server->finish());
  server.reset();
  const pid_t child = ::fork();
  if (child == 0) ::_exit(equal(*memory_, *served_) ? 0 : 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  const auto touched = touched_pages(*served_);
  ASSERT_TRUE(touched);
  EXPECT_LT(touched->front().length, served_->size());
}

TEST_F(PageServerTest, ADamagedFrameGivesNoBytes) {
  fill_noise(GuestAddress{kHigh}, 200 * kPage, 12);
  SERVE_OR_SKIP(server, pack());
  // Noise is stored as it is: what is altered lies in the last frames.
  const UniqueFd file(::open(path("one.vmm").c_str(), O_RDWR | O_CLOEXEC));
  const auto where = fs::file_size(path("one.vmm")) - 50 * kPage;
  ASSERT_TRUE(write_all_at(file.get(), std::as_bytes(std::span("damage")), where));
  EXPECT_EQ(first_byte(*served_, kPage), 'a') << "other frames are whole";
  const auto finished = server->finish();
  ASSERT_FALSE(finished);
  EXPECT_NE(finished.error().message().find("one.vmm"), std::string::npos);
  auto damage = damage_.get_future();
  std::atomic<int> got{-1};
  std::jthread reader([&] { got = first_byte(*served_, kHigh + 190 * kPage); });
  const auto text = damage.get();
  EXPECT_NE(text.find("one.vmm': a frame at"), std::string::npos) << text;
  EXPECT_EQ(got, -1);
  server.reset();  // lets the thread go
}

TEST_F(PageServerTest, FillsAtOnceWhereItMust) {
  fill_noise(GuestAddress{0x10000}, 200 * kPage, 13);
  fill_noise(GuestAddress{kHigh + 0x10000}, 100 * kPage, 14);
  const auto packed = pack();
  ASSERT_TRUE(packed) << packed.error().message();
  const auto memory = std::move(*GuestMemory::create(kRanges));
  ASSERT_TRUE((*packed)->fill(*memory));
  EXPECT_TRUE(equal(*memory_, *memory));
}

TEST_F(PageServerTest, ExtentsAreFewAndFarBetween) {
  for (const auto page : {1u, 2u, 3u, 10u, 20u, 200u}) fill(GuestAddress{page * kPage}, 'x');
  const auto packed = pack();
  ASSERT_TRUE(packed) << packed.error().message();
  const auto all = (*packed)->extents(kPage, 100);
  ASSERT_EQ(all.size(), 5u);
  EXPECT_EQ(all[0], (Extent{kPage, 3 * kPage}));
  EXPECT_EQ(all[3], (Extent{200 * kPage, kPage}));
  EXPECT_EQ((*packed)->extents(16 * kPage, 100).size(), 3u);
  EXPECT_EQ((*packed)->extents(kPage, 2).size(), 2u);
  EXPECT_EQ((*packed)->extents(kPage, 1).size(), 1u);
  const auto zeroes = (*packed)->zeroes_around(5, 0, 512);
  EXPECT_EQ(zeroes.first, 4u);
  EXPECT_EQ(zeroes.count, 6u);
  EXPECT_FALSE((*packed)->frame_of(5));
  EXPECT_TRUE((*packed)->frame_of(10));
}

}  // namespace
}  // namespace vmm::snapshot
