#include "src/hypervisor/snapshot/archive.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <random>

#include "src/base/progress_for_test.h"
#include "src/hypervisor/snapshot/export.h"
#include "src/hypervisor/snapshot/import.h"
#include "src/hypervisor/snapshot/merge.h"
#include "src/hypervisor/snapshot/snapshot_fixture.h"

namespace vmm::snapshot {
namespace {

class ArchiveTest : public SnapshotTest {
 protected:
  Result<Exported> pack(const std::string& name, const std::string& file,
                        const ExportBase& base = {}) {
    const auto reader = TRY(Reader::open(path(name), Verify::sealed, Hosts::any));
    return export_snapshot(*reader, path(file), base);
  }
  Result<std::string> unpack(const std::string& file, const std::string& name,
                             const std::vector<std::string>& bases = {}) {
    return import_archive(path(file), path(name), bases);
  }
  static std::string content(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  void write(const std::string& file, std::string_view bytes) const {
    std::ofstream(path(file), std::ios::binary | std::ios::trunc) << bytes;
  }
  // Bytes that no compressor makes smaller.
  static std::string noise(std::size_t size, unsigned seed) {
    std::mt19937 random(seed);
    std::string bytes(size, '\0');
    for (auto& byte : bytes) byte = static_cast<char>(random());
    return bytes;
  }
  void fill_noise(GuestAddress at, std::size_t size, unsigned seed) const {
    const auto bytes = noise(size, seed);
    std::memcpy(memory_->slice(at, size)->data(), bytes.data(), size);
  }
  // Files of the test's directory, without those that it made by these names.
  std::size_t files_beside(std::initializer_list<std::string> known) const {
    std::size_t count = 0;
    for (const auto& entry : fs::directory_iterator(root_)) {
      if (std::ranges::find(known, entry.path().filename().string()) == known.end()) ++count;
    }
    return count;
  }
};

TEST_F(ArchiveTest, ComesBackAsItWas) {
  fill_noise(GuestAddress{0x10000}, 600 * 1024, 1);  // more than a frame
  ASSERT_TRUE(save("one"));
  const auto made = pack("one", "one.vmm");
  ASSERT_TRUE(made) << made.error().message();
  EXPECT_EQ(made->bytes, fs::file_size(path("one.vmm")));
  const auto digest = unpack("one.vmm", "two");
  ASSERT_TRUE(digest) << digest.error().message();
  EXPECT_EQ(*digest, Reader::open(path("one")).value()->digest());
  EXPECT_EQ(refusal("two", Verify::all), "");
  for (const std::string file : {"manifest.json", "state", "memory", "blk0.img"}) {
    EXPECT_EQ(content(path("one/" + file)), content(path("two/" + file))) << file;
  }
  struct stat before{}, after{};
  ASSERT_EQ(::stat(path("one/memory").c_str(), &before), 0);
  ASSERT_EQ(::stat(path("two/memory").c_str(), &after), 0);
  EXPECT_LE(after.st_blocks, before.st_blocks + 16) << "holes";
  EXPECT_EQ(files_beside({"one", "two", "one.vmm"}), 0u);
}

// A few pages may be named any number of times: 1,000 archives of one page would fill any disk.
TEST_F(ArchiveTest, UnpacksNoMoreThanThereIsRoomFor) {
  const auto directory = open_file(root_, O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory);
  ArchiveFile small{"state", 2 * kPage, {{0, 1, 0}, {1, 1, 0}}};
  EXPECT_EQ(small.data(), 2 * kPage);
  EXPECT_TRUE(check_room(directory->get(), std::array{small}, "here"));
  constexpr std::uint64_t kMany = kMaxUnpacked / kPage;
  ArchiveFile large{"memory", kMaxUnpacked, {{0, kMany, 0}}};
  const auto room = check_room(directory->get(), std::array{small, large}, "here");
  ASSERT_FALSE(room);
  EXPECT_NE(room.error().message().find("it unpacks to 67108864.0 MiB, 'here' has "),
            std::string::npos)
      << room.error().message();
  EXPECT_TRUE(decode_index(encode_index({"", {large}}), kMany));
  EXPECT_EQ(decode_index(encode_index({"", {small, large}}), kMany).error().message(),
            "its files have more than 70368744177664 bytes");
}

TEST_F(ArchiveTest, SameSnapshotSameBytes) {
  fill_noise(GuestAddress{0x10000}, 300 * 1024, 2);
  ASSERT_TRUE(save("one"));
  ASSERT_TRUE(pack("one", "a.vmm"));
  ASSERT_TRUE(pack("one", "b.vmm"));
  EXPECT_EQ(content(path("a.vmm")), content(path("b.vmm")));
  ASSERT_TRUE(unpack("a.vmm", "two"));
  ASSERT_TRUE(pack("two", "c.vmm"));
  EXPECT_EQ(content(path("a.vmm")), content(path("c.vmm")));
}

// Frames are encoded side by side, more than there are threads for, and some in no time.
TEST_F(ArchiveTest, FramesStayInOrder) {
  constexpr std::size_t kFrame = 512u << 10;
  for (unsigned i = 0; i < 40; ++i) {
    std::string frame = i % 3 == 0 ? noise(kFrame, i) : std::string(kFrame, 'f');
    for (std::size_t page = 0; page < kFrame; page += kPage) {
      const std::string name = "page " + std::to_string(i * kFrame + page);
      frame.replace(page, name.size(), name);
    }
    disk_ += frame;
  }
  ASSERT_TRUE(save("one"));
  ASSERT_TRUE(pack("one", "a.vmm"));
  ASSERT_TRUE(unpack("a.vmm", "two"));
  EXPECT_TRUE(content(path("two/blk0.img")) == disk_);
  ASSERT_TRUE(pack("two", "b.vmm"));
  EXPECT_TRUE(content(path("a.vmm")) == content(path("b.vmm")));
}

TEST_F(ArchiveTest, MergesAChain) {
  ASSERT_TRUE(save("base"));
  fill(GuestAddress{2 * kPage}, 'B');
  fill(GuestAddress{kPage}, '\0');
  ASSERT_TRUE(save("next", "base", kAll));
  ASSERT_TRUE(pack("next", "next.vmm"));
  fs::remove_all(path("base"));
  fs::remove_all(path("next"));
  ASSERT_TRUE(unpack("next.vmm", "alone"));
  const auto reader = Reader::open(path("alone"), Verify::all);
  ASSERT_TRUE(reader) << reader.error().message();
  EXPECT_EQ((*reader)->depth(), 1u);
  const auto memory = (*reader)->map_memory();
  EXPECT_EQ(first_byte(**memory, kPage), 0);
  EXPECT_EQ(first_byte(**memory, 2 * kPage), 'B');
  EXPECT_EQ(first_byte(**memory, (4ull << 30) + 3 * kPage), 'c');
  ASSERT_TRUE(pack("alone", "again.vmm"));
  EXPECT_EQ(content(path("next.vmm")), content(path("again.vmm")));
}

TEST_F(ArchiveTest, TakesReadOnlyDisksAlong) {
  read_only_disk_ = path("data.img");
  write("data.img", noise(70'000 / 512 * 512, 3));
  ASSERT_TRUE(save("one"));
  const auto made = pack("one", "one.vmm");
  ASSERT_TRUE(made) << made.error().message();
  const auto disk = content(read_only_disk_);
  fs::remove(read_only_disk_);
  ASSERT_TRUE(unpack("one.vmm", "two"));
  const auto reader = Reader::open(path("two"), Verify::all);
  ASSERT_TRUE(reader) << reader.error().message();
  const auto& entry = (*reader)->manifest().disks.at(0);
  EXPECT_EQ(entry.file, "blk1.img");
  EXPECT_EQ(content((*reader)->disk_path(entry)), disk);
}

TEST_F(ArchiveTest, StoresEachPageOnceAndNoZeroes) {
  fill_noise(GuestAddress{0x10000}, 256 * 1024, 4);
  disk_ = std::string(1u << 20, '\0') + noise(256 * 1024, 4) + std::string(1u << 20, '\0');
  ASSERT_TRUE(save("one"));
  const auto made = pack("one", "one.vmm");
  ASSERT_TRUE(made) << made.error().message();
  EXPECT_GE(made->pages, 128u);
  EXPECT_LT(made->stored, 64u + 8);
  EXPECT_LT(made->bytes, (256u << 10) + 4096);
  EXPECT_GT(made->bytes, 256u << 10);
  ASSERT_TRUE(unpack("one.vmm", "two"));
  EXPECT_EQ(content(path("two/blk0.img")), disk_);
}

TEST_F(ArchiveTest, BuildsOnAnother) {
  fill_noise(GuestAddress{0x10000}, 512 * 1024, 5);
  ASSERT_TRUE(save("one"));
  ASSERT_TRUE(pack("one", "one.vmm"));
  fill_noise(GuestAddress{0x10000}, 2 * kPage, 6);
  ASSERT_TRUE(save("two"));
  const auto second = pack("two", "two.vmm", {path("one.vmm"), {}});
  ASSERT_TRUE(second) << second.error().message();
  EXPECT_LE(second->stored, 3u);
  EXPECT_LT(second->bytes, 6 * kPage);
  fill_noise(GuestAddress{4ull << 30}, 2 * kPage, 7);
  ASSERT_TRUE(save("three"));
  ASSERT_TRUE(pack("three", "three.vmm", {path("two.vmm"), {path("one.vmm")}}));
  EXPECT_FALSE(pack("three", "four.vmm", {path("two.vmm"), {}})) << "one.vmm is not given";

  ASSERT_TRUE(unpack("two.vmm", "two-again", {path("one.vmm")}));
  EXPECT_EQ(content(path("two-again/memory")), content(path("two/memory")));
  const auto third = unpack("three.vmm", "three-again", {path("one.vmm"), path("two.vmm")});
  ASSERT_TRUE(third) << third.error().message();
  EXPECT_EQ(content(path("three-again/memory")), content(path("three/memory")));
  EXPECT_EQ(content(path("three-again/manifest.json")), content(path("three/manifest.json")));

  const auto digest = Archive::open(path("one.vmm")).value()->digest();
  for (const auto& bases : {std::vector<std::string>{}, std::vector{path("two.vmm")}}) {
    const auto refused = unpack("two.vmm", "refused", bases);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message().find(digest), std::string::npos)
        << refused.error().message();
  }
  EXPECT_FALSE(unpack("one.vmm", "refused", {path("two.vmm")})) << "a base that is not needed";
  EXPECT_FALSE(fs::exists(path("refused")));
}

TEST_F(ArchiveTest, RefusesEveryAlteredByte) {
  ASSERT_TRUE(save("one"));
  ASSERT_TRUE(pack("one", "one.vmm"));
  const auto whole = content(path("one.vmm"));
  ASSERT_LT(whole.size(), 8000u);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    auto bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x21);
    write("bad.vmm", bytes);
    EXPECT_FALSE(unpack("bad.vmm", "two")) << "byte " << at;
    EXPECT_FALSE(verify_archive(path("bad.vmm"), {})) << "byte " << at;
  }
  EXPECT_EQ(files_beside({"one", "one.vmm", "bad.vmm"}), 0u);
}

TEST_F(ArchiveTest, RefusesTruncationAndMore) {
  ASSERT_TRUE(save("one"));
  ASSERT_TRUE(pack("one", "one.vmm"));
  const auto whole = content(path("one.vmm"));
  for (std::size_t size = 0; size < whole.size(); size += size < 200 ? 1 : 13) {
    write("bad.vmm", std::string_view(whole).substr(0, size));
    EXPECT_FALSE(unpack("bad.vmm", "two")) << size << " bytes";
  }
  write("bad.vmm", whole + "x");
  EXPECT_FALSE(unpack("bad.vmm", "two"));
  write("bad.vmm", whole + whole);
  EXPECT_FALSE(unpack("bad.vmm", "two"));
  EXPECT_EQ(files_beside({"one", "one.vmm", "bad.vmm"}), 0u);
  EXPECT_FALSE(unpack("none.vmm", "two"));
  EXPECT_FALSE(import_archive(root_, path("two"), {})) << "a directory";
}

TEST_F(ArchiveTest, RefusesAnotherVersionBeforeAnythingElse) {
  ASSERT_TRUE(save("one"));
  ASSERT_TRUE(pack("one", "one.vmm"));
  auto bytes = content(path("one.vmm"));
  const auto at = bytes.find("\"version\":1");
  ASSERT_NE(at, std::string::npos);
  bytes[at + 10] = '7';
  write("bad.vmm", bytes.substr(0, 300));
  const auto refused = unpack("bad.vmm", "two");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find("it has version 7 of the format"), std::string::npos)
      << refused.error().message();
}

TEST_F(ArchiveTest, CarriesAnotherArchitecture) {
  architecture_ = "vax";
  ASSERT_TRUE(save("vax"));
  ASSERT_TRUE(pack("vax", "vax.vmm"));
  ASSERT_TRUE(unpack("vax.vmm", "two"));
  EXPECT_TRUE(Reader::open(path("two"), Verify::all, Hosts::any));
  EXPECT_NE(refusal("two").find("it is of an vax machine"), std::string::npos);
}

TEST_F(ArchiveTest, TakesDisksThatAreAlmostEmpty) {
  read_only_disk_ = path("data.img");
  write("data.img", "begin");
  constexpr std::uint64_t kSize = 1ull << 40;
  std::error_code error;
  fs::resize_file(read_only_disk_, kSize, error);
  if (error) GTEST_SKIP() << "no files of a TiB here: " << error.message();
  const UniqueFd disk(::open(read_only_disk_.c_str(), O_RDWR | O_CLOEXEC));
  const std::string end = "end";
  ASSERT_TRUE(write_all_at(disk.get(), std::as_bytes(std::span(end)), kSize - end.size()));
  ASSERT_TRUE(save("one"));
  const auto made = pack("one", "one.vmm");
  ASSERT_TRUE(made) << made.error().message();
  EXPECT_LT(made->bytes, 4 * kPage);
  const auto digest = unpack("one.vmm", "two");
  ASSERT_TRUE(digest) << digest.error().message();
  EXPECT_EQ(refusal("two", Verify::all), "");
}

TEST_F(ArchiveTest, ReplacesNothing) {
  ASSERT_TRUE(save("one"));
  write("one.vmm", "precious");
  EXPECT_FALSE(pack("one", "one.vmm"));
  EXPECT_EQ(content(path("one.vmm")), "precious");
  write("two.vmm.partial", "left by a killed one");
  ASSERT_TRUE(pack("one", "two.vmm"));
  EXPECT_FALSE(unpack("two.vmm", "one")) << "a snapshot that is there";
  EXPECT_EQ(refusal("one", Verify::all), "");
  EXPECT_EQ(files_beside({"one", "one.vmm", "two.vmm"}), 0u);
}

TEST_F(ArchiveTest, KilledOnesLeaveNothingThatLooksWhole) {
  fill_noise(GuestAddress{0x10000}, 1u << 19, 9);
  disk_ = noise(1u << 20, 10);
  ASSERT_TRUE(save("one"));
  const auto killed_in = [&](auto&& call) {
    const pid_t child = ::fork();
    if (child == 0) {
      // The kernel kills it in the write that passes the limit.
      const rlimit size{600u << 10, 600u << 10}, core{0, 0};
      ::setrlimit(RLIMIT_CORE, &core);
      ::setrlimit(RLIMIT_FSIZE, &size);
      call();
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ;
  };
  EXPECT_TRUE(killed_in([&] { (void)pack("one", "one.vmm"); }));
  EXPECT_FALSE(fs::exists(path("one.vmm")));
  EXPECT_TRUE(fs::exists(path("one.vmm.partial")));
  EXPECT_FALSE(unpack("one.vmm.partial", "two"));
  ASSERT_TRUE(pack("one", "one.vmm"));
  EXPECT_TRUE(killed_in([&] { (void)unpack("one.vmm", "two"); }));
  EXPECT_FALSE(fs::exists(path("two")));
  EXPECT_FALSE(fs::exists(path("two.partial/manifest.json")));
  ASSERT_TRUE(unpack("one.vmm", "two"));
  EXPECT_EQ(files_beside({"one", "one.vmm", "two"}), 0u);
}

TEST_F(ArchiveTest, FailedExportLeavesNothing) {
  ASSERT_TRUE(save("one"));
  const auto reader = Reader::open(path("one"));
  ASSERT_TRUE(reader);
  std::ofstream(path("one") + "/blk0.img", std::ios::in | std::ios::binary) << 'X';
  EXPECT_FALSE(export_snapshot(**reader, path("one.vmm"), {}));
  EXPECT_EQ(files_beside({"one"}), 0u);
}

// At each point where that is possible.
TEST_F(ArchiveTest, CancelledOnesLeaveNothing) {
  fill_noise(GuestAddress{0x10000}, 600 * 1024, 1);
  ASSERT_TRUE(save("one"));
  fill(GuestAddress{2 * kPage}, 'B');
  ASSERT_TRUE(save("two", "one", kAll));
  ASSERT_TRUE(pack("one", "one.vmm"));
  const auto reader = Reader::open(path("two"), Verify::sealed, Hosts::any);
  ASSERT_TRUE(reader) << reader.error().message();
  using Work = std::function<bool(Progress&)>;
  const std::pair<std::string, Work> works[] = {
      {"export",
       [&](Progress& progress) {
         return export_snapshot(**reader, path("made"), {path("one.vmm"), {}}, progress)
             .has_value();
       }},
      {"import",
       [&](Progress& progress) {
         return import_archive(path("one.vmm"), path("made"), {}, progress).has_value();
       }},
      {"merge",
       [&](Progress& progress) { return merge(**reader, path("made"), progress).has_value(); }},
      {"verify of an archive",
       [&](Progress& progress) {
         return verify_archive(path("one.vmm"), {}, progress).has_value();
       }},
      {"verify of a directory", [&](Progress& progress) {
         return Reader::open(path("two"), Verify::all, Hosts::any, progress).has_value();
       }}};
  for (const auto& [name, work] : works) {
    unsigned at = 0;
    for (;; ++at) {
      test::CancelsAt progress(at);
      if (work(progress)) break;
      EXPECT_EQ(files_beside({"one", "two", "one.vmm"}), 0u) << name << " " << at;
    }
    EXPECT_GT(at, 5u) << name;
    fs::remove_all(path("made"));
  }
}

TEST_F(ArchiveTest, IsReadByZstdItself) {
  if (std::system("zstd --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "no zstd program here";
  fill_noise(GuestAddress{0x10000}, 600 * 1024, 8);
  ASSERT_TRUE(save("one"));
  ASSERT_TRUE(pack("one", "one.vmm"));
  const auto test = "zstd -q -t < " + path("one.vmm");
  EXPECT_EQ(std::system(test.c_str()), 0);
}

TEST(ArchiveIndexTest, ComesBackAndIsBounded) {
  const ArchiveIndex index{
      "{}",
      {{"state", 5000, {{0, 2, 7}}}, {"memory", 1u << 20, {{3, 1, 0}, {4, 5, 9}, {200, 56, 3}}}}};
  const auto bytes = encode_index(index);
  const auto back = decode_index(bytes, 59);
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(back->manifest, "{}");
  ASSERT_EQ(back->files.size(), 2u);
  EXPECT_EQ(back->files[1].runs, index.files[1].runs);
  EXPECT_FALSE(decode_index(bytes, 58)) << "a page that is not there";
  for (const PageRun run :
       {PageRun{0, 3, 0}, PageRun{2, 1, 0}, PageRun{0, 0, 0}, PageRun{0, 1, 4}}) {
    EXPECT_FALSE(decode_index(encode_index({"", {{"state", 5000, {run}}}}), 4));
  }
}

TEST(ArchiveIndexTest, HasRunsThatFitIntoMemory) {
  // Every other page, one run each: all of them are possible, and one more is not.
  const auto index_of = [](std::size_t state_runs, std::size_t memory_runs) {
    ArchiveIndex index{"{}", {}};
    for (const auto& [name, count] :
         {std::pair{"state", state_runs}, std::pair{"memory", memory_runs}}) {
      ArchiveFile file{name, count * 2 * kArchivePage, {}};
      for (std::size_t i = 0; i < count; ++i) file.runs.push_back({2 * i, 1, 0});
      index.files.push_back(std::move(file));
    }
    return encode_index(index);
  };
  const auto most = decode_index(index_of(1, kMaxRuns - 1), 1);
  ASSERT_TRUE(most) << most.error().message();
  EXPECT_EQ(most->files[1].runs.capacity(), kMaxRuns - 1) << "memory that nothing needs";
  const auto more = decode_index(index_of(1, kMaxRuns), 1);
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().message(),
            "its file 'memory' has more runs of pages than are possible (4194304)");
}

TEST(ArchiveSeekTableTest, ComesBackAndIsBounded) {
  const std::vector<SeekEntry> entries = {{10, 0}, {20, 4096}};
  const auto frame = encode_seek_table(entries);
  ASSERT_EQ(frame.size(), 8u + 16 + 9);
  const auto footer = std::span(frame).last<kSeekFooter>();
  EXPECT_EQ(seek_table_size(footer, 100).value(), frame.size());
  EXPECT_FALSE(seek_table_size(footer, 32));
  const auto back = decode_seek_table(frame);
  ASSERT_TRUE(back);
  EXPECT_EQ((*back)[1].decoded, 4096u);
  EXPECT_FALSE(decode_seek_table(std::span(frame).subspan(8)));
}

}  // namespace
}  // namespace vmm::snapshot
