#include "devices/backend/disk/qcow2/layer.h"
#include "src/hypervisor/snapshot/catalog.h"
#include "src/hypervisor/snapshot/chunks.h"
#include "src/hypervisor/snapshot/export.h"
#include "src/hypervisor/snapshot/import.h"
#include "src/hypervisor/snapshot/merge.h"
#include "src/hypervisor/snapshot/snapshot_fixture.h"
#include "src/hypervisor/snapshot/write_tracker.h"

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
  const auto of_version = [&](const std::string& version) {
    auto other = text;
    const std::string wanted = "\"version\": 1";
    other.replace(other.find(wanted), wanted.size(), "\"version\": " + version);
    const auto parsed = parse_manifest(other);
    return parsed ? "" : parsed.error().message();
  };
  for (const char* version : {"0", "7"}) {
    EXPECT_EQ(of_version(version), std::string("it has version ") + version +
                                       " of the format, this program reads versions 1 to 2");
  }
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

// Both ways to know what was written, of fresh memory and of memory that started as a file.
class WrittenPagesTest : public SnapshotTest, public ::testing::WithParamInterface<Tracking> {};

TEST_P(WrittenPagesTest, AreThoseWrittenSince) {
  ASSERT_TRUE(save("one"));
  const auto from_file = Reader::open(path("one")).value()->map_memory();
  ASSERT_TRUE(from_file);
  for (const GuestMemory* memory : {memory_.get(), from_file->get()}) {
    WriteTracker tracker;
    if (const auto result = tracker.restart(*memory, GetParam()); !result) {
      GTEST_SKIP() << result.error().message();
    }
    const auto written = [&] {
      std::vector<std::uint64_t> offsets;
      const auto extents = written_pages(*memory, GetParam(), {}).value();
      for (const auto& extent : extents) {
        for (std::uint64_t at = 0; at < extent.length; at += kPage) {
          offsets.push_back(extent.offset + at);
        }
      }
      return offsets;
    };
    fill(*memory, GuestAddress{2 * kPage}, 'x');             // was there
    fill(*memory, GuestAddress{(4ull << 30) + kPage}, 'y');  // was not
    EXPECT_EQ(first_byte(*memory, kPage), 'a');              // read only
    EXPECT_EQ(written(), (std::vector<std::uint64_t>{2 * kPage, (1u << 20) + kPage}));
    // Given back: none of it is there, or what is there is new.
    ASSERT_TRUE(memory->discard(GuestAddress{2 * kPage}, kPage));
    EXPECT_EQ(first_byte(*memory, 2 * kPage), 0);
    const auto given_back = written_pages(*memory, GetParam(), kAll).value();
    ASSERT_FALSE(given_back.empty());
    EXPECT_LE(given_back[0].offset, 2 * kPage);
    ASSERT_TRUE(tracker.restart(*memory, GetParam()));
    EXPECT_EQ(written(), std::vector<std::uint64_t>{});
    fill(*memory, GuestAddress{2 * kPage}, 'z');
    EXPECT_EQ(written(), std::vector<std::uint64_t>{2 * kPage});
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, WrittenPagesTest,
                         ::testing::Values(Tracking::soft_dirty, Tracking::write_protected),
                         [](const auto& way) {
                           return way.param == Tracking::soft_dirty ? "SoftDirty"
                                                                    : "WriteProtection";
                         });

// ---- disks in layers

class LayerTest : public SnapshotTest {
 protected:
  LayerTest() {
    disk_ = std::string(5 * kChunk + 1536, 'a');
    EXPECT_TRUE(save("base"));
    disk_.replace(kChunk + 5, 3, "new").replace(3 * kChunk, kChunk, kChunk, '\0');
    disk_.back() = 'z';
    EXPECT_TRUE(save("next", "base", {}));
  }
  std::string content(const std::string& name) {
    const auto reader = Reader::open(path(name), Verify::all);
    if (!reader) return reader.error().message();
    const auto& entry = (*reader)->manifest().disks.at(0);
    const auto chain = open_disk_file((*reader)->disk_path(entry), entry);
    if (!chain) return chain.error().message();
    std::string bytes((*chain)->size(), '?');
    EXPECT_EQ((*chain)->read(0, std::as_writable_bytes(std::span(bytes))), 0);
    return bytes;
  }
  // Writes the manifest anew, its digest too, as somebody might who means harm.
  void forge(const std::string& name, const std::function<void(Manifest&)>& change) {
    const std::string file = path(name) + "/manifest.json";
    auto manifest = parse_manifest(*read_text_file(file)).value();
    change(manifest);
    std::ofstream(file) << to_text(manifest);
  }
  std::uint64_t allocated(const std::string& file) {
    struct stat status{};
    EXPECT_EQ(::stat(path(file).c_str(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
};

TEST_F(LayerTest, HasWhatChangedOverTheParents) {
  EXPECT_TRUE(content("next") == disk_);
  const auto entry = examine(path("next"));
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->manifest.version(), 2);
  EXPECT_EQ(examine(path("base"))->manifest.version(), 1);
  disk_.replace(kChunk, 3, "top");
  ASSERT_TRUE(save("last", "next", {}));
  EXPECT_TRUE(content("last") == disk_);
}

TEST_F(LayerTest, TakesRoomForWhatChanged) {
  disk_.assign(64u << 20, 'l');
  ASSERT_TRUE(save("large"));
  disk_.replace(40u << 20, 2 * kChunk, 2 * kChunk, 'n');
  ASSERT_TRUE(save("small", "large", {}));
  EXPECT_LT(allocated("small/blk0.qcow2"), 10 * kChunk);
}

TEST_F(LayerTest, RefusesWhatWasAlteredCutOrIsMissing) {
  const std::string file = path("next") + "/blk0.qcow2";
  const auto size = fs::file_size(file);
  for (const std::uint64_t at : {std::uint64_t{40}, size / 2, size - 1}) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(at));
    const int byte = stream.get();
    const auto put = [&](int value) {
      stream.seekp(static_cast<std::streamoff>(at));
      stream.put(static_cast<char>(value));
      stream.flush();
    };
    put(byte ^ 1);
    EXPECT_NE(refusal("next").find("its file 'blk0.qcow2'"), std::string::npos) << refusal("next");
    put(byte);
    EXPECT_EQ(refusal("next"), "");
  }
  fs::resize_file(file, size + 65536);
  EXPECT_NE(refusal("next").find("bytes instead of"), std::string::npos);
  fs::remove(file);
  EXPECT_NE(refusal("next").find("blk0.qcow2"), std::string::npos);
}

// Whatever the image names would be opened and shown to the guest.
TEST_F(LayerTest, RefusesALayerOverAnythingButItsParentsDisk) {
  std::ofstream(path("secret")) << std::string(disk_.size(), 's');
  const std::string file = path("next") + "/blk0.qcow2";
  for (const auto& elsewhere : {path("secret"), std::string("../secret")}) {
    fs::remove(file);
    std::ofstream(file).close();
    auto target = disk::qcow2::copy_to_layer({.path = file,
                                              .size = disk_.size(),
                                              .backing_path = elsewhere,
                                              .backing_format = disk::ImageFormat::raw});
    ASSERT_TRUE(target);
    ASSERT_TRUE((*target)->finish());
    forge("next", [&](Manifest& manifest) {
      const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
      auto& entry = manifest.disks[0];
      entry.file_size = fs::file_size(file);
      entry.digest = digest_of_sparse(fd.get(), entry.file_size).value();
    });
    EXPECT_NE(refusal("next").find("is not a layer over 'disk0.img' of its parent"),
              std::string::npos)
        << refusal("next");
  }
}

TEST_F(LayerTest, RefusesAManifestThatDoesNotFit) {
  forge("next", [](Manifest& manifest) { manifest.disks[0].size -= 512; });
  EXPECT_NE(refusal("next").find("does not fit the disks of its parent"), std::string::npos)
      << refusal("next");
  forge("next", [](Manifest& manifest) { manifest.parent.reset(); });
  EXPECT_NE(refusal("next").find("is a layer, but it has no parent"), std::string::npos)
      << refusal("next");
}

TEST_F(LayerTest, MergesAndExportsToWhatACompleteSnapshotIs) {
  ASSERT_TRUE(save("whole"));
  const auto reader = Reader::open(path("next"));
  ASSERT_TRUE(reader);
  const auto merged = merge(**reader, path("merged"));
  ASSERT_TRUE(merged) << merged.error().message();
  EXPECT_TRUE(content("merged") == disk_);
  EXPECT_FALSE(examine(path("merged"))->manifest.disks[0].layer);
  const auto digest = [&](const std::string& name) {
    return examine(path(name))->manifest.disks[0].digest;
  };
  EXPECT_EQ(digest("merged"), digest("whole"));
  ASSERT_TRUE(export_snapshot(**reader, path("next.vmm"), {}));
  const auto imported = import_archive(path("next.vmm"), path("imported"), {});
  ASSERT_TRUE(imported) << imported.error().message();
  EXPECT_EQ(*imported, *merged);
  EXPECT_TRUE(content("imported") == disk_);
}

}  // namespace
}  // namespace vmm::snapshot
