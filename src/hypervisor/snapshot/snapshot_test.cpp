#include "src/disk/qcow2/layer.h"
#include "src/hypervisor/snapshot/archive_format.h"
#include "src/hypervisor/snapshot/catalog.h"
#include "src/hypervisor/snapshot/chunks.h"
#include "src/hypervisor/snapshot/export.h"
#include "src/hypervisor/snapshot/import.h"
#include "src/hypervisor/snapshot/merge.h"
#include "src/hypervisor/snapshot/snapshot_fixture.h"
#include "src/hypervisor/snapshot/working_set.h"
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

// A guest that writes to every second page of 8 GiB.
TEST_F(SnapshotTest, StatesHoldAMillionExtents) {
  MemoryLayer layer{.complete = false, .extents = {}};
  for (std::uint64_t i = 0; i <= 1u << 20; ++i) layer.extents.push_back({2 * i * kPage, kPage});
  state::Sections sections;
  sections.put(kMemorySection, layer);
  const auto bytes = sections.to_bytes();
  ASSERT_TRUE(bytes) << bytes.error().message();
  auto back = state::Sections::from_bytes(*bytes);
  ASSERT_TRUE(back) << back.error().message();
  const auto read = back->take<MemoryLayer>(kMemorySection);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(read->extents, layer.extents);
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
  for (const std::string file : {"manifest.json", "state", "memory", "blk0.img"}) {
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
  for (const std::string file : {"manifest.json", "state", "memory", "blk0.img"}) {
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
    const std::string wanted = "\"version\": 3";
    other.replace(other.find(wanted), wanted.size(), "\"version\": " + version);
    const auto parsed = parse_manifest(other);
    return parsed ? "" : parsed.error().message();
  };
  for (const char* version : {"0", "7"}) {
    EXPECT_EQ(of_version(version), std::string("it has version ") + version +
                                       " of the format, this program reads versions 1 to 3");
  }
}

// A manifest from somebody else is small and flat, or refused before anything is made of it.
TEST_F(SnapshotTest, RefusesManifestsThatGrow) {
  ASSERT_TRUE(save("one"));
  const auto text = *read_text_file(path("one") + "/manifest.json");
  const std::string config = "\"config\": ";
  const auto with = [&](const std::string& value) {
    auto other = text;
    other.insert(other.find(config) + config.size(), value + ", \"x\": ");
    const auto parsed = parse_manifest(other);
    EXPECT_FALSE(digest_in(other));
    return parsed ? "" : parsed.error().message();
  };
  const std::string deep(100'000, '[');
  EXPECT_NE(with(deep + std::string(deep.size(), ']')).find("nested more than"), std::string::npos);
  EXPECT_NE(with("\"a\\u0000b\"").find("NUL"), std::string::npos);
  EXPECT_NE(with("\"" + std::string(1u << 20, 'x') + "\"").find("bytes: expected at most"),
            std::string::npos);
  EXPECT_FALSE(parse_archive_header(deep));
  Manifest manifest{.architecture = "x86_64", .program = "test", .config = "{}"};
  for (int i = 0; i <= 256; ++i) {
    manifest.disks.push_back({.device = "blk0", .path = "root.img", .size = 512});
  }
  EXPECT_EQ(parse_manifest(to_text(manifest)).error().message(), "more than 256 disks");
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

// A name is resolved as the kernel does: "link/../x" lies beside what the link leads to.
TEST_F(SnapshotTest, WriterAndParentGoThroughSymbolicLinks) {
  fs::create_directories(path("real/deep"));
  fs::create_directory_symlink("real/deep", path("link"));
  ASSERT_TRUE(save("base"));
  fill(GuestAddress{9 * kPage}, 'n');
  for (const std::string name : {"link/one", "link/../two", "link/three/"}) {
    const auto saved = save(name, "base", kAll);
    ASSERT_TRUE(saved) << saved.error().message();
    EXPECT_EQ(refusal(name), "");
  }
  EXPECT_TRUE(fs::exists(path("real/deep/one")));
  EXPECT_TRUE(fs::exists(path("real/two")));
  const auto on_top = save("top", "link/../two", kAll);
  ASSERT_TRUE(on_top) << on_top.error().message();
  EXPECT_EQ(refusal("top"), "");
  for (const std::string name : {".", "..", "link/..", "x.partial", "none/x", ""}) {
    EXPECT_FALSE(save(name)) << name;
  }
}

// The machine may end with its save: what no restore reads is not published.
TEST_F(SnapshotTest, PublishesNothingThatCannotBeRead) {
  ASSERT_TRUE(save("base"));
  const auto base = Reader::open(path("base")).value();
  const auto publish = [&](const std::function<void(Manifest&)>& change) {
    const auto writer = Writer::create(path("made")).value();
    Manifest manifest = base->manifest();
    manifest.memory_digest = write_memory(*writer, *memory_, kAll).value();
    const auto state = read_text_file(path("base") + "/state").value();
    EXPECT_TRUE(writer->write_file(kStateFile, std::as_bytes(std::span(state))));
    EXPECT_TRUE(writer->write_file("blk0.img", std::as_bytes(std::span(disk_))));
    change(manifest);
    const auto published = writer->publish(manifest);
    return published ? "" : published.error().message();
  };
  EXPECT_NE(publish([](Manifest& m) { m.state_digest = m.memory_digest; }), "");
  EXPECT_NE(publish([&](Manifest& m) { m.parent = Parent{"../base", base->digest()}; }), "");
  EXPECT_NE(publish([](Manifest& m) { m.disks[0].size += 512; }), "");
  EXPECT_NE(publish([](Manifest& m) { m.config = "\"" + std::string(2u << 20, 'x') + "\""; }), "");
  EXPECT_FALSE(fs::exists(path("made")));
  EXPECT_FALSE(fs::exists(path("made.partial")));
  EXPECT_EQ(publish([](Manifest&) {}), "");
}

TEST_F(SnapshotTest, WriterTouchesNothingThatNoSaveMade) {
  fs::create_directory(path("home"));
  std::ofstream(path("home") + "/memory") << "precious";
  fs::create_directory_symlink("home", path("one.partial"));
  EXPECT_FALSE(save("one"));
  fs::create_directory(path("two.partial"));
  std::ofstream(path("two.partial") + "/memory") << "left";
  std::ofstream(path("two.partial") + "/mine.img") << "precious";
  const auto refused = save("two");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("has 'mine.img' in it"), std::string::npos)
      << refused.error().message();
  std::ofstream(path("three.partial")) << "precious";
  EXPECT_FALSE(save("three"));
  fs::create_directories(path("four.partial") + "/state");
  EXPECT_FALSE(save("four"));
  for (const std::string file : {"home/memory", "two.partial/mine.img", "three.partial"}) {
    EXPECT_EQ(read_text_file(path(file)).value(), "precious");
  }
  EXPECT_EQ(read_text_file(path("two.partial/memory")).value(), "left");
}

// Nobody writes to a FIFO of a snapshot that comes from somebody else.
TEST_F(SnapshotTest, OpensRegularFilesOnly) {
  for (const std::string file : {"manifest.json", "state", "memory", "blk0.img"}) {
    const std::string name = "with-" + file;
    ASSERT_TRUE(save(name));
    const auto whole = path(name) + "/" + file;
    fs::rename(whole, path("away"));
    ASSERT_EQ(::mkfifo(whole.c_str(), 0600), 0);
    EXPECT_NE(refusal(name).find("is not a regular file"), std::string::npos) << refusal(name);
    fs::remove(whole);
    fs::create_symlink(path("away"), whole);
    EXPECT_NE(refusal(name).find("is a symbolic link"), std::string::npos) << refusal(name);
  }
  ASSERT_TRUE(save("one"));
  for (const std::string file : {"seal", "working-set", "working-set.partial"}) {
    fs::remove(path("one") + "/" + file);
    ASSERT_EQ(::mkfifo((path("one") + "/" + file).c_str(), 0600), 0);
  }
  EXPECT_EQ(refusal("one"), "");
  EXPECT_TRUE(read_working_set(path("one"), "digest", memory_->size()).empty());
  EXPECT_TRUE(record_working_set(*memory_, path("one"), "digest"));
  EXPECT_FALSE(read_working_set(path("one"), "digest", memory_->size()).empty());
  EXPECT_EQ(list(root_)->size(), 5u);
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
    // Once more, and only read since: its content changed all the same.
    ASSERT_TRUE(tracker.restart(*memory, GetParam()));
    ASSERT_TRUE(memory->discard(GuestAddress{2 * kPage}, kPage));
    EXPECT_EQ(first_byte(*memory, 2 * kPage), 0);
    EXPECT_EQ(written(), std::vector<std::uint64_t>{2 * kPage});
    ASSERT_TRUE(tracker.restart(*memory, GetParam()));
    EXPECT_EQ(written(), std::vector<std::uint64_t>{});
  }
}

// Where the kernel shows no soft-dirty bits, none of it is written as far as it says.
TEST_F(SnapshotTest, WhatWasGivenBackAndReadCountsAsWritten) {
  memory_->record_discards();
  ASSERT_TRUE(memory_->discard(GuestAddress{2 * kPage}, 3 * kPage));
  for (const std::uint64_t page : {2u, 3u, 4u}) EXPECT_EQ(first_byte(*memory_, page * kPage), 0);
  const auto extents = written_pages(*memory_, Tracking::soft_dirty, {}).value();
  const auto has = [&](std::uint64_t page) {
    return std::ranges::any_of(extents, [&](const Extent& extent) {
      return extent.offset <= page * kPage && page * kPage < extent.offset + extent.length;
    });
  };
  for (const std::uint64_t page : {2u, 3u, 4u}) EXPECT_TRUE(has(page)) << page;
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

// Their paths one behind the other are longer than the kernel takes.
TEST_F(LayerTest, ReadsALongChainOfLongNames) {
  const auto name = [](int level) { return std::string(200, 'n') + std::to_string(level); };
  std::string below = "next";
  for (int level = 0; level < 30; ++level) {
    disk_[static_cast<std::size_t>(level)] = 'L';
    const auto saved = save(name(level), below, {});
    ASSERT_TRUE(saved) << level << saved.error().message();
    below = name(level);
  }
  EXPECT_TRUE(content(below) == disk_);
  EXPECT_EQ(examine(path(below))->depth, 32u);
  fs::remove_all(path("base"));
  // The one that is missing is named, and it alone.
  const auto missing = "its parent '" + fs::canonical(root_).string() + "/base'";
  EXPECT_EQ(refusal(below),
            "snapshot '" + path(below) + "': " + missing + ": there is no such directory");
  EXPECT_EQ(examine(path(below))->damage, missing + " is missing");
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
    EXPECT_NE(refusal("next").find("is not a layer over 'blk0.img' of its parent"),
              std::string::npos)
        << refusal("next");
  }
}

TEST_F(LayerTest, RefusesAManifestThatDoesNotFit) {
  forge("next", [](Manifest& manifest) { manifest.disks[0].size -= 512; });
  EXPECT_NE(refusal("next").find("does not match the disks of its parent"), std::string::npos)
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
