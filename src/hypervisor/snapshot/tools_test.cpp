// Catalog, merge, remove.
#include <sys/mman.h>
#include <sys/stat.h>

#include "src/base/new_file.h"
#include "src/hypervisor/snapshot/catalog.h"
#include "src/hypervisor/snapshot/export.h"
#include "src/hypervisor/snapshot/merge.h"
#include "src/hypervisor/snapshot/page_map.h"
#include "src/hypervisor/snapshot/prune.h"
#include "src/hypervisor/snapshot/remove.h"
#include "src/hypervisor/snapshot/snapshot_fixture.h"
#include "src/hypervisor/snapshot/working_set.h"

namespace vmm::snapshot {
namespace {

class SnapshotToolsTest : public SnapshotTest {
 protected:
  void save_chain() {
    ASSERT_TRUE(save("base"));
    fill(GuestAddress{2 * kPage}, 'B');
    ASSERT_TRUE(save("next", "base", kAll));
    fill(GuestAddress{kPage}, '\0');
    fill(GuestAddress{9 * kPage}, 'n');
    ASSERT_TRUE(save("last", "next", kAll));
  }
};

TEST_F(SnapshotToolsTest, ListsWhatIsThere) {
  save_chain();
  fs::create_directory(path("other"));
  fs::create_directory(path("broken"));
  std::ofstream(path("broken") + "/manifest.json") << "{";
  const auto found = list(root_);
  ASSERT_TRUE(found) << found.error().message();
  ASSERT_EQ(found->size(), 4u);
  EXPECT_EQ((*found)[0].name, "base");
  EXPECT_EQ((*found)[0].depth, 1u);
  EXPECT_GT((*found)[0].stored, 3 * kPage);
  EXPECT_EQ((*found)[1].name, "broken");
  EXPECT_NE((*found)[1].damage, "");
  EXPECT_EQ((*found)[2].name, "last");
  EXPECT_EQ((*found)[2].depth, 3u);
  EXPECT_EQ((*found)[2].manifest.disks.size(), 1u);
  EXPECT_EQ((*found)[3].digest, Reader::open(path("next")).value()->digest());
  EXPECT_FALSE(list(path("nowhere")));
}

TEST_F(SnapshotToolsTest, TellsAMissingParent) {
  save_chain();
  fs::rename(path("base"), path("away"));
  const auto entry = examine(path("last"));
  ASSERT_TRUE(entry) << entry.error().message();
  EXPECT_NE(entry->damage.find("is missing"), std::string::npos) << entry->damage;
  EXPECT_EQ(entry->depth, 0u);
}

TEST_F(SnapshotToolsTest, MergesAChain) {
  save_chain();
  const auto reader = Reader::open(path("last"));
  ASSERT_TRUE(reader);
  const auto merged = merge(**reader, path("alone"));
  ASSERT_TRUE(merged) << merged.error().message();
  for (const std::string name : {"base", "next", "last"}) fs::remove_all(path(name));
  const auto alone = Reader::open(path("alone"), Verify::all);
  ASSERT_TRUE(alone) << alone.error().message();
  EXPECT_EQ((*alone)->digest(), *merged);
  EXPECT_EQ((*alone)->depth(), 1u);
  const auto memory = (*alone)->map_memory();
  ASSERT_TRUE(memory);
  EXPECT_EQ(first_byte(**memory, kPage), 0);
  EXPECT_EQ(first_byte(**memory, 2 * kPage), 'B');
  EXPECT_EQ(first_byte(**memory, 9 * kPage), 'n');
  EXPECT_EQ(first_byte(**memory, (4ull << 30) + 3 * kPage), 'c');
  auto sections = (*alone)->take_sections();
  EXPECT_EQ(sections.take<Example>("example")->value, 42u);
  EXPECT_TRUE(sections.check_all_taken());
}

TEST_F(SnapshotToolsTest, MergeOfACompleteSnapshotIsTheSame) {
  ASSERT_TRUE(save("one"));
  const auto reader = Reader::open(path("one"));
  ASSERT_TRUE(reader);
  const auto merged = merge(**reader, path("two"));
  ASSERT_TRUE(merged) << merged.error().message();
  EXPECT_EQ(*merged, (*reader)->digest());
  EXPECT_FALSE(merge(**reader, path("two"))) << "a name that is there";
}

TEST_F(SnapshotToolsTest, MergeRefusesAnAlteredDisk) {
  ASSERT_TRUE(save("one"));
  const auto reader = Reader::open(path("one"));
  ASSERT_TRUE(reader);
  std::ofstream(path("one") + "/blk0.img", std::ios::in | std::ios::binary) << 'X';
  EXPECT_FALSE(merge(**reader, path("two")));
  EXPECT_FALSE(fs::exists(path("two")));
  EXPECT_FALSE(fs::exists(path("two.partial")));
}

TEST_F(SnapshotToolsTest, CopiesSparseFiles) {
  const UniqueFd from(::open(path("from").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  constexpr std::uint64_t kSize = (8u << 20) + 512;
  ASSERT_EQ(::ftruncate(from.get(), kSize), 0);
  const std::string text(5000, 't');
  ASSERT_TRUE(write_all_at(from.get(), std::as_bytes(std::span(text)), (4u << 20) + 100));
  ASSERT_TRUE(write_all_at(from.get(), std::as_bytes(std::span(text)).first(12), kSize - 12));
  const UniqueFd to(::open(path("to").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(copy_sparse(from.get(), to.get(), kSize));
  EXPECT_EQ(digest_of_sparse(to.get(), kSize).value(), digest_of_sparse(from.get(), kSize).value());
  struct stat status{};
  ASSERT_EQ(::fstat(to.get(), &status), 0);
  EXPECT_LT(status.st_blocks * 512, 1 << 20);
}

TEST_F(SnapshotToolsTest, RemovesOnlyWhatNobodyBuildsOn) {
  save_chain();
  EXPECT_EQ(children_of(path("base")).value(), std::vector<std::string>{"next"});
  const auto refused = snapshot::remove(path("base"));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("is the parent of 'next'"), std::string::npos);
  EXPECT_EQ(refusal("last"), "");
  for (const std::string name : {"last", "next", "base"}) {
    const auto removed = snapshot::remove(path(name));
    EXPECT_TRUE(removed) << removed.error().message();
  }
  EXPECT_TRUE(fs::is_empty(root_));
  EXPECT_FALSE(snapshot::remove(path("base")));
}

TEST_F(SnapshotToolsTest, RemovesNothingThatIsNoSnapshot) {
  ASSERT_TRUE(save("one"));
  std::ofstream(path("one") + "/precious") << "kept";
  EXPECT_FALSE(snapshot::remove(path("one")));
  EXPECT_EQ(refusal("one"), "");
  fs::create_directory(path("empty"));
  EXPECT_FALSE(snapshot::remove(path("empty")));
  EXPECT_TRUE(fs::exists(path("empty")));
}

TEST_F(SnapshotToolsTest, RemovesNoDiskThatTheManifestDoesNotName) {
  ASSERT_TRUE(save("one"));
  for (const std::string name : {"mine.qcow2", "mine.img", "blk1.qcow2"}) {
    const auto mine = path("one") + "/" + name;
    std::ofstream(mine) << "precious";
    const auto refused = snapshot::remove(path("one"));
    ASSERT_FALSE(refused) << name;
    EXPECT_NE(refused.error().message().find(name), std::string::npos) << refused.error().message();
    EXPECT_EQ(refusal("one"), "");
    fs::remove(mine);
  }
  fs::remove(path("one") + "/manifest.json");
  std::ofstream(path("one") + "/mine.img") << "precious";
  EXPECT_FALSE(snapshot::remove(path("one")));
  EXPECT_TRUE(fs::exists(path("one") + "/mine.img"));
}

TEST_F(SnapshotToolsTest, ListsAndPrunesWhatKilledSavesLeft) {
  ASSERT_TRUE(save("one"));
  fs::create_directory(path("killed.partial"));
  for (const std::string name : {"memory", "state", "blk0.qcow2"}) {
    std::ofstream(path("killed.partial") + "/" + name) << std::string(5000, 'k');
  }
  const auto live = Writer::create(path("live"));
  ASSERT_TRUE(live);
  fs::create_directory(path("mine.partial"));
  std::ofstream(path("mine.partial") + "/thesis") << "precious";
  fs::create_directory_symlink("one", path("link.partial"));
  const auto found = list(root_);
  ASSERT_TRUE(found);
  ASSERT_EQ(found->size(), 3u);
  EXPECT_TRUE((*found)[0].unfinished);
  EXPECT_EQ((*found)[0].name, "killed.partial");
  EXPECT_GE((*found)[0].stored, 15'000u);
  EXPECT_EQ((*found)[1].name, "live.partial");
  EXPECT_FALSE((*found)[2].unfinished);
  const auto pruned = prune(root_);
  ASSERT_TRUE(pruned) << pruned.error().message();
  EXPECT_EQ(pruned->removed, std::vector<std::string>{"killed.partial"});
  EXPECT_EQ(pruned->in_use, std::vector<std::string>{"live.partial"});
  EXPECT_FALSE(fs::exists(path("killed.partial")));
  EXPECT_TRUE(fs::exists(path("live.partial")));
  EXPECT_TRUE(fs::exists(path("mine.partial") + "/thesis"));
  EXPECT_EQ(refusal("one"), "");
  EXPECT_FALSE(prune(path("nowhere")));
}

TEST_F(SnapshotToolsTest, WhatAnotherUserLeftKeepsNothingElseFromBeingPruned) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  for (const std::string name : {"a.partial", "b.partial", "c.partial"}) {
    fs::create_directory(path(name));
    std::ofstream(path(name) + "/memory") << "begun";
  }
  ASSERT_EQ(::chown(path("a.partial").c_str(), 12345, 12345), 0);
  const auto pruned = prune(root_);
  ASSERT_TRUE(pruned) << pruned.error().message();
  EXPECT_EQ(pruned->removed, (std::vector<std::string>{"b.partial", "c.partial"}));
  EXPECT_EQ(pruned->refused,
            std::vector{fmt::format("'{}' belongs to another user", path("a.partial"))});
  EXPECT_TRUE(fs::exists(path("a.partial") + "/memory"));
}

TEST_F(SnapshotToolsTest, ListsAndPrunesWhatKilledExportsLeft) {
  ASSERT_TRUE(save("one"));
  const auto reader = Reader::open(path("one"), Verify::sealed, Hosts::any);
  ASSERT_TRUE(reader);
  ASSERT_TRUE(export_snapshot(**reader, path("whole.vmm"), {}));
  // Cut off behind the header, and in the middle.
  fs::copy(path("whole.vmm"), path("begun.vmm.partial"));
  fs::resize_file(path("begun.vmm.partial"), 200);
  fs::copy(path("whole.vmm"), path("live.vmm.partial"));
  const auto live = lock_unfinished_file(path("live.vmm.partial"));
  ASSERT_TRUE(live) << live.error().message();
  std::ofstream(path("root.img.partial")) << "of another command";
  fs::create_symlink("whole.vmm", path("link.vmm.partial"));
  ASSERT_EQ(::mkfifo(path("fifo.partial").c_str(), 0600), 0);
  const auto found = list(root_);
  ASSERT_TRUE(found) << found.error().message();
  ASSERT_EQ(found->size(), 3u);
  EXPECT_EQ((*found)[0].name, "begun.vmm.partial");
  EXPECT_EQ((*found)[0].damage, "its export goes on, or was killed");
  EXPECT_TRUE((*found)[0].unfinished);
  EXPECT_GT((*found)[0].stored, 0u);
  EXPECT_EQ((*found)[1].name, "live.vmm.partial");
  const auto pruned = prune(root_);
  ASSERT_TRUE(pruned) << pruned.error().message();
  EXPECT_EQ(pruned->removed, std::vector<std::string>{"begun.vmm.partial"});
  EXPECT_EQ(pruned->in_use, std::vector<std::string>{"live.vmm.partial"});
  EXPECT_FALSE(fs::exists(path("begun.vmm.partial")));
  for (const auto* kept : {"live.vmm.partial", "root.img.partial", "whole.vmm", "fifo.partial"}) {
    EXPECT_TRUE(fs::exists(path(kept))) << kept;
  }
  EXPECT_TRUE(fs::is_symlink(path("link.vmm.partial")));
}

TEST_F(SnapshotToolsTest, RemovesWhatAKilledRemovalLeft) {
  ASSERT_TRUE(save("one"));
  fs::remove(path("one") + "/manifest.json");
  EXPECT_TRUE(list(root_)->empty()) << "looks whole";
  EXPECT_TRUE(snapshot::remove(path("one")));
  EXPECT_TRUE(fs::is_empty(root_));
}

TEST_F(SnapshotToolsTest, RemovesTheWorkingSetToo) {
  ASSERT_TRUE(save("one"));
  ASSERT_TRUE(record_working_set(*memory_, path("one"), "digest"));
  EXPECT_EQ(read_working_set(path("one"), "digest", memory_->size()).written.size(), 2);
  std::ofstream(path("one") + "/working-set.partial") << "of a killed process";
  EXPECT_TRUE(snapshot::remove(path("one")));
  EXPECT_TRUE(fs::is_empty(root_));
}

TEST(WorkingSetTest, WhatIsWrittenComesFirst) {
  constexpr std::uint64_t kPage = 4096;
  WorkingSet set{"d", {{0, 2 * kPage}, {8 * kPage, kPage}}, {{4 * kPage, kPage}}};
  const auto first = take_first(set, 2 * kPage);
  EXPECT_EQ(first.written, (std::vector<Extent>{{4 * kPage, kPage}}));
  EXPECT_EQ(first.touched, (std::vector<Extent>{{0, kPage}})) << "a part of an extent";
  EXPECT_EQ(set.touched, (std::vector<Extent>{{kPage, kPage}, {8 * kPage, kPage}}));
  WorkingSet large{"d", {}, {{0, 64 * kPage}}};
  EXPECT_EQ(take_first(large, kPage).written, (std::vector<Extent>{{0, kPage}}));
  EXPECT_TRUE(large.written.empty()) << "nobody else's memory grows by what one guest wrote";
  EXPECT_EQ(large.touched, (std::vector<Extent>{{kPage, 63 * kPage}}));
  EXPECT_FALSE(take_first(set, 1u << 20).empty());
  EXPECT_TRUE(set.empty());
}

TEST(WorkingSetTest, IsThereBeforeItIsMappedForTheGuest) {
  constexpr std::uint64_t kPage = 4096, kSize = 4u << 20, kHole = 3u << 30;
  const UniqueFd file(::memfd_create("memory", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 2 * kSize), 0);
  const std::array ranges = {MemoryRange{GuestAddress{0}, kSize},
                             MemoryRange{GuestAddress{kHole}, kSize}};
  const std::array parts = {FilePart{0, 2 * kSize, file.get()}};
  const auto memory = GuestMemory::create(ranges, parts);
  ASSERT_TRUE(memory);
  const WorkingSet set{"d", {{kSize - kPage, 2 * kPage}}, {{kPage, 600 * kPage}}};
  std::vector<std::pair<std::uint64_t, std::uint64_t>> told;
  const auto map = [&](GuestAddress base, std::uint64_t length) {
    told.emplace_back(base.value, length);
    return true;
  };
  bring_in(**memory, set, map);
  using Told = std::pair<std::uint64_t, std::uint64_t>;
  EXPECT_EQ(told, (std::vector<Told>{{kPage, 256 * kPage},
                                     {257 * kPage, 256 * kPage},
                                     {513 * kPage, 88 * kPage},
                                     {kSize - kPage, kPage},
                                     {kHole, kPage}}));
  // Those that will be written are this memory's own by now, the others are the file's.
  std::size_t own = 0, shared = 0;
  const auto pages = PageMap::open();
  ASSERT_TRUE(pages);
  for (const auto& region : (*memory)->regions()) {
    ASSERT_TRUE(pages->for_each(region, [&](std::uint64_t, PageUse use) {
      if (use.resident) ++(use.shared ? shared : own);
    }));
  }
  EXPECT_EQ(own, 600u);
  EXPECT_GE(shared, 2u);
  told.clear();
  bring_in(**memory, set, [&](GuestAddress base, std::uint64_t length) {
    told.emplace_back(base.value, length);
    return false;
  });
  EXPECT_EQ(told.size(), 1u) << "it goes on though nothing is mapped";
}

TEST_F(SnapshotToolsTest, RecordsNoWorkingSetInASnapshotThatGoes) {
  ASSERT_TRUE(save("one"));
  fs::remove(path("one") + "/manifest.json");
  EXPECT_FALSE(record_working_set(*memory_, path("one"), "digest"));
  EXPECT_TRUE(snapshot::remove(path("one")));
}

TEST_F(SnapshotToolsTest, ReadsAnotherArchitectureOnlyWhenAsked) {
  architecture_ = "vax";
  ASSERT_TRUE(save("vax"));
  EXPECT_FALSE(Reader::open(path("vax")));
  EXPECT_TRUE(Reader::open(path("vax"), Verify::all, Hosts::any));
  EXPECT_EQ(examine(path("vax"))->manifest.architecture, "vax");
}

}  // namespace
}  // namespace vmm::snapshot
