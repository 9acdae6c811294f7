#include "src/hypervisor/snapshot/page_map.h"
#include "src/hypervisor/snapshot/snapshot_fixture.h"

namespace vmm::snapshot {
namespace {

TEST_F(SnapshotTest, ReadsBackWhatItWrote) {
  const auto saved = save("one");
  ASSERT_TRUE(saved) << saved.error().message();
  EXPECT_FALSE(fs::exists(path("one.partial")));
  auto reader = Reader::open(path("one"), Verify::all);
  ASSERT_TRUE(reader) << reader.error().message();
  const auto memory = (*reader)->map_memory();
  ASSERT_TRUE(memory) << memory.error().message();
  EXPECT_EQ(first_byte(**memory, 0), 0);
  EXPECT_EQ(first_byte(**memory, kPage), 'a');
  EXPECT_EQ(first_byte(**memory, 2 * kPage), 'b');
  EXPECT_EQ(first_byte(**memory, (4ull << 30) + 3 * kPage), 'c');
  auto sections = (*reader)->take_sections();
  EXPECT_EQ(sections.take<Example>("example")->value, 42u);
  EXPECT_TRUE(sections.check_all_taken());
  // What a machine writes does not reach the file.
  fill(**memory, GuestAddress{kPage}, 'x');
  const auto again = (*reader)->map_memory();
  ASSERT_TRUE(again);
  EXPECT_EQ(first_byte(**again, kPage), 'a');
}

TEST_F(SnapshotTest, HasHolesForZeroes) {
  fill(GuestAddress{16 * kPage}, '\0');
  ASSERT_TRUE(save("one"));
  struct stat status{};
  ASSERT_EQ(::stat((path("one") + "/memory").c_str(), &status), 0);
  EXPECT_EQ(status.st_size, 2 << 20);
  EXPECT_LE(status.st_blocks * 512, 16 * static_cast<off_t>(kPage));
}

TEST_F(SnapshotTest, DiscardOfMemoryFromAFileReadsAsZero) {
  ASSERT_TRUE(save("one"));
  const auto reader = Reader::open(path("one"));
  ASSERT_TRUE(reader);
  const auto memory = (*reader)->map_memory();
  ASSERT_TRUE(memory);
  ASSERT_TRUE((*memory)->discard(GuestAddress{kPage}, kPage));
  EXPECT_EQ(first_byte(**memory, kPage), 0);
  EXPECT_EQ(first_byte(**memory, 2 * kPage), 'b');
}

TEST_F(SnapshotTest, IncrementalHoldsOnlyWhatChanged) {
  ASSERT_TRUE(save("base"));
  fill(GuestAddress{2 * kPage}, 'B');
  fill(GuestAddress{kPage}, '\0');  // became zero
  fill(GuestAddress{9 * kPage}, 'n');
  const std::array<Extent, 1> all = {Extent{0, 2u << 20}};
  const auto saved = save("next", "base", all);
  ASSERT_TRUE(saved) << saved.error().message();
  auto reader = Reader::open(path("next"), Verify::all);
  ASSERT_TRUE(reader) << reader.error().message();
  EXPECT_EQ((*reader)->depth(), 2u);
  const auto memory = (*reader)->map_memory();
  ASSERT_TRUE(memory) << memory.error().message();
  EXPECT_EQ(first_byte(**memory, kPage), 0);
  EXPECT_EQ(first_byte(**memory, 2 * kPage), 'B');
  EXPECT_EQ(first_byte(**memory, 9 * kPage), 'n');
  EXPECT_EQ(first_byte(**memory, (4ull << 30) + 3 * kPage), 'c');
  struct stat status{};
  ASSERT_EQ(::stat((path("next") + "/memory").c_str(), &status), 0);
  EXPECT_LE(status.st_blocks * 512, 16 * static_cast<off_t>(kPage));
}

TEST_F(SnapshotTest, RefusesAMissingOrOtherParent) {
  ASSERT_TRUE(save("base"));
  const std::array<Extent, 1> all = {Extent{0, 2u << 20}};
  ASSERT_TRUE(save("next", "base", all));
  fs::rename(path("base"), path("away"));
  EXPECT_NE(refusal("next").find("its parent"), std::string::npos) << refusal("next");
  fill(GuestAddress{5 * kPage}, 'z');
  ASSERT_TRUE(save("base"));
  EXPECT_NE(refusal("next").find("another snapshot"), std::string::npos) << refusal("next");
}

TEST_F(SnapshotTest, RefusesEveryAlteredByte) {
  ASSERT_TRUE(save("one"));
  for (const std::string file : {"manifest.json", "state", "memory", "disk0.img"}) {
    const std::string name = path("one") + "/" + file;
    const auto size = fs::file_size(name);
    // All bytes of the small files, some of the large ones.
    const std::uint64_t step = size > 100'000 ? 4096 + 61 : size > 4000 ? 97 : 1;
    for (std::uint64_t at = 0; at < size; at += step) {
      std::fstream stream(name, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekg(static_cast<std::streamoff>(at));
      char byte = 0;
      stream.get(byte);
      stream.seekp(static_cast<std::streamoff>(at));
      stream.put(static_cast<char>(byte ^ 0x20));
      stream.close();
      EXPECT_NE(refusal("one"), "") << file << " at " << at;
      std::fstream back(name, std::ios::in | std::ios::out | std::ios::binary);
      back.seekp(static_cast<std::streamoff>(at));
      back.put(byte);
    }
    // As it was, though the seal does not fit any more.
    EXPECT_EQ(refusal("one"), "") << file;
  }
}

TEST_F(SnapshotTest, RefusesTruncatedAndMissingFiles) {
  for (const std::string file : {"manifest.json", "state", "memory", "disk0.img"}) {
    const std::string name = "cut-" + file;
    ASSERT_TRUE(save(name));
    const std::string whole = path(name) + "/" + file;
    fs::resize_file(whole, fs::file_size(whole) - 1);
    EXPECT_NE(refusal(name), "") << file << " cut";
    fs::remove(whole);
    EXPECT_NE(refusal(name), "") << file << " missing";
  }
  EXPECT_NE(refusal("nowhere").find("there is no such directory"), std::string::npos);
}

TEST_F(SnapshotTest, RefusesAnotherVersionAndArchitecture) {
  Manifest manifest{.architecture = "vax", .program = "test", .config = "{}"};
  const auto text = to_text(manifest);
  ASSERT_TRUE(parse_manifest(text));
  fs::create_directory(path("vax"));
  std::ofstream(path("vax") + "/manifest.json") << text;
  EXPECT_NE(refusal("vax").find("it is of an vax machine"), std::string::npos) << refusal("vax");
  manifest.version = 7;
  const auto other = parse_manifest(to_text(manifest));
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().message(),
            "it has version 7 of the format, this program reads version 1");
}

TEST_F(SnapshotTest, RefusesNamesThatLeadElsewhere) {
  const auto with_disks = [&](const std::vector<std::string>& files) {
    Manifest manifest{};
    manifest.architecture = "x86_64";
    manifest.config = "{}";
    for (const auto& file : files) {
      manifest.disks.push_back({.device = "blk0", .file = file, .path = "root.img", .size = 512});
    }
    return parse_manifest(to_text(manifest));
  };
  EXPECT_TRUE(with_disks({"blk0.img", "blk1.img"}));
  for (const auto& name :
       {std::string("../x"), std::string("/x"), std::string("."), std::string(".."),
        std::string(".x"), std::string("memory"), std::string("state"),
        std::string("manifest.json"), std::string("seal"), std::string("x.partial"),
        std::string("a\0b", 3), std::string("a\nb"), std::string(256, 'x')}) {
    EXPECT_FALSE(with_disks({name})) << name;
  }
  EXPECT_FALSE(with_disks({"blk0.img", "blk0.img"}));
}

TEST_F(SnapshotTest, WriterTakesNoNameThatIsThere) {
  ASSERT_TRUE(save("one"));
  const auto again = save("one");
  ASSERT_FALSE(again);
  EXPECT_NE(again.error().message().find("exists"), std::string::npos);
}

TEST_F(SnapshotTest, WriterLeavesNothingWhenItIsNotPublished) {
  {
    auto writer = Writer::create(path("half"));
    ASSERT_TRUE(writer);
    ASSERT_TRUE((*writer)->create_file("memory"));
    EXPECT_FALSE(Writer::create(path("half"))) << "two writers of one snapshot";
    EXPECT_NE(refusal("half"), "");
  }
  EXPECT_TRUE(fs::is_empty(root_));
}

TEST_F(SnapshotTest, WriterTakesAwayWhatAKilledOneLeft) {
  fs::create_directory(path("one.partial"));
  std::ofstream(path("one.partial") + "/memory") << "left";
  EXPECT_TRUE(save("one"));
  EXPECT_FALSE(fs::exists(path("one.partial")));
}

TEST_F(SnapshotTest, DirtyPagesAreThoseWritten) {
  if (const auto cleared = clear_dirty(); !cleared) GTEST_SKIP() << cleared.error().message();
  fill(GuestAddress{2 * kPage}, 'x');
  const auto map = PageMap::open();
  ASSERT_TRUE(map);
  std::vector<std::uint64_t> dirty;
  std::size_t huge = 0;
  for (const auto& region : memory_->regions()) {
    ASSERT_TRUE(map->for_each(region, [&](std::uint64_t offset, PageUse use) {
      if (!use.dirty) return;
      dirty.push_back(offset);
      ++huge;
    }));
  }
  EXPECT_TRUE(std::ranges::find(dirty, 2 * kPage) != dirty.end());
  EXPECT_LT(huge, (2u << 20) / kPage) << "not all";
}

}  // namespace
}  // namespace vmm::snapshot
