#include "src/engine/image/layer_image.h"

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "src/engine/image/layer_fixture.h"
#include "src/engine/image/layer_marks.h"

namespace vmm::engine {
namespace {

class LayerTest : public testing::Test {
 protected:
  static std::string error_of(const std::vector<Entry>& entries, const LayerLimits& limits = {}) {
    const auto layer = layer_of(entries, limits);
    return layer ? "" : layer.error().message();
  }
};

TEST_F(LayerTest, HasWhatTheArchiveHas) {
  auto special = file("a/file", "content", 04711);
  special.inode.uid = 100'000;
  special.inode.gid = 4'000'000'000;
  special.inode.mtime = 1'234'567'890;
  special.inode.mtime_ns = 123'456'789;
  special.inode.xattrs = {{"security.capability", std::string("\1\0\0\2\0", 5)},
                          {"user.name", "value"},
                          {"trusted.overlay.opaque", "y"},
                          {"trusted.vmm.link", "/etc/passwd"},
                          {"system.unknown", "x"}};
  const auto layer = layer_of({directory("a", 01777), special});
  ASSERT_TRUE(layer) << layer.error().message();
  const auto image = erofs::read_image(layer->get());
  ASSERT_TRUE(image) << image.error().message();
  const auto& tree = image->tree;
  const auto a = *tree.child(erofs::Tree::kRoot, "a");
  EXPECT_EQ(tree.at(a).mode, mode_t{S_IFDIR | 01777});
  const auto& inode = tree.at(*tree.child(a, "file"));
  EXPECT_EQ(inode.mode, mode_t{S_IFREG | 04711});
  EXPECT_EQ(inode.uid, 100'000u);
  EXPECT_EQ(inode.gid, 4'000'000'000u);
  EXPECT_EQ(inode.mtime, 1'234'567'890);
  EXPECT_EQ(inode.mtime_ns, 123'456'789u);
  EXPECT_EQ(content_of(layer->get(), inode), "content");
  ASSERT_NE(inode.xattr("security.capability"), nullptr);
  EXPECT_EQ(*inode.xattr("security.capability"), std::string("\1\0\0\2\0", 5));
  EXPECT_NE(inode.xattr("user.name"), nullptr);
  EXPECT_EQ(inode.xattrs.size(), 2u) << "marks and unknown kinds are left out";
}

TEST_F(LayerTest, HasTheDiffIdOfTheUncompressedArchive) {
  const auto plain = archive_of({file("a", std::string(100'000, 'a'))});
  const auto digest_of = [](int fd) {
    FileSource source(fd);
    const auto out = memory_file();
    const auto image = write_layer_image(source, out.get(), {});
    EXPECT_TRUE(image) << image.error().message();
    return image->diff_id;
  };
  std::string bytes(static_cast<std::size_t>(::lseek(plain.get(), 0, SEEK_END)), 0);
  ASSERT_TRUE(read_exact_at(plain.get(), std::as_writable_bytes(std::span(bytes)), 0));
  ASSERT_EQ(::lseek(plain.get(), 0, SEEK_SET), 0);
  EXPECT_EQ(digest_of(plain.get()), Digest::of(bytes));
  for (const auto filter : {ARCHIVE_FILTER_GZIP, ARCHIVE_FILTER_ZSTD, ARCHIVE_FILTER_XZ}) {
    const auto packed = memory_file();
    auto* const writer = archive_write_new();
    archive_write_set_format_raw(writer);
    archive_write_add_filter(writer, filter);
    ASSERT_EQ(archive_write_open_fd(writer, packed.get()), ARCHIVE_OK);
    auto* const entry = archive_entry_new();
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_write_header(writer, entry);
    archive_write_data(writer, bytes.data(), bytes.size());
    archive_entry_free(entry);
    ASSERT_EQ(archive_write_free(writer), ARCHIVE_OK);
    EXPECT_LT(::lseek(packed.get(), 0, SEEK_END), static_cast<off_t>(bytes.size()));
    ASSERT_EQ(::lseek(packed.get(), 0, SEEK_SET), 0);
    EXPECT_EQ(digest_of(packed.get()), Digest::of(bytes));
  }
}

TEST_F(LayerTest, KeepsLongAndForeignNames) {
  const std::string deep = std::string(200, 'x') + "/" + std::string(255, 'y') + "/ü ☃/-";
  EXPECT_EQ(list_disk(disk_of({{file(deep, "1"), symlink("l", std::string(300, 't'))}})),
            fmt::format("/l l {}\n/{} d 755\n/{}/{} d 755\n/{}/{}/ü ☃ d 755\n/{} f 1\n",
                        std::string(300, 't'), std::string(200, 'x'), std::string(200, 'x'),
                        std::string(255, 'y'), std::string(200, 'x'), std::string(255, 'y'), deep));
}

TEST_F(LayerTest, KeepsNamesThatAreNotUtf8) {
  EXPECT_EQ(list_disk(disk_of({{file("d\xe9/a\xff", "1"), symlink("l", "t\xfe"),
                                hard_link("h\x80", "d\xe9/a\xff")}})),
            "/d\xe9 d 755\n/d\xe9/a\xff f 1\n/h\x80 f 1\n/l l t\xfe\n");
}

TEST_F(LayerTest, ComposesNoLetters) {
  EXPECT_EQ(list_disk(disk_of({{file("e\u0301", "1"), file("\u00e9", "2")}})),
            "/e\u0301 f 1\n/\u00e9 f 2\n");
}

TEST_F(LayerTest, HidesFilesOfTheLongestName) {
  const std::string name(255, 'y');
  EXPECT_EQ(list_disk(disk_of({{file("a", "1"), file(name, "2")}, {whiteout("", name)}})),
            "/a f 1\n");
  EXPECT_NE(error_of({whiteout("", name + "y")}), "");
}

TEST_F(LayerTest, LeavesHolesForZeroes) {
  std::string content(10u << 20, 0);
  content[5u << 20] = 'x';
  const auto layer = layer_of({file("sparse", content)});
  ASSERT_TRUE(layer);
  struct stat status{};
  ASSERT_EQ(::fstat(layer->get(), &status), 0);
  EXPECT_GT(status.st_size, 10 << 20);
  EXPECT_LT(status.st_blocks * 512, 1 << 20);
  EXPECT_EQ(list_disk(disk_of({{file("sparse", content)}})), "/sparse f " + content + "\n");
}

TEST_F(LayerTest, StaysWithinItsRoot) {
  EXPECT_EQ(
      list_disk(disk_of({{file("../../a", "1"), file("/b", "2"), file("c/../../d", "3"),
                          symlink("up", "../../.."), file("up/e", "4"), symlink("abs", "/x"),
                          file("abs/f", "5"), hard_link("g", "../../../a")}})),
      "/a f 1\n/abs l /x\n/b f 2\n/d f 3\n/e f 4\n/g f 1\n/up l ../../..\n/x d 755\n/x/f f 5\n");
}

TEST_F(LayerTest, ReplacesEarlierEntries) {
  EXPECT_EQ(
      list_disk(disk_of({{file("a", "1"), file("a", "22"), directory("b", 0700), file("b/c", "3"),
                          directory("b", 0711), directory("d"), file("d/e", "4"), file("d", "5"),
                          symlink("f", "b"), directory("f")}})),
      "/a f 22\n/b d 711\n/b/c f 3\n/d f 5\n/f d 755\n");
}

TEST_F(LayerTest, RefusesWhatIsOutOfBounds) {
  EXPECT_EQ(error_of({file("a", "")}), "");
  EXPECT_NE(error_of({file(std::string(256, 'a'), "")}), "");
  EXPECT_NE(error_of({file(std::string(3000, '/') + std::string(3000, 'a'), "")}), "");
  EXPECT_NE(error_of({symlink("a", std::string(4096, 'a'))}), "");
  EXPECT_NE(error_of({file("a", ""), file("a/b", "")}), "");
  EXPECT_NE(error_of({symlink("a", "a"), file("a/b", "")}), "");
  EXPECT_NE(error_of({directory("a"), hard_link("b", "a")}), "");
  EXPECT_NE(error_of({whiteout("", "..")}), "");
  auto heavy = file("a", "");
  heavy.inode.xattrs = {{"user.a", std::string(40'000, 'a')}};
  EXPECT_NE(error_of({heavy}), "");
  EXPECT_NE(error_of({file("a", ""), file("b", "")}, {.entries = 1}), "");
  EXPECT_NE(error_of({file("abc", "")}, {.name_bytes = 2}), "");
  const auto full = error_of({file("a", std::string(50'000, 'a'))}, {.archive_bytes = 20'000});
  EXPECT_EQ(full, "it unpacks to more than the 20000 bytes that are free");
}

// A link chain that doubles the way with each entry: bounded by steps, not by memory or patience.
TEST_F(LayerTest, BoundsTheWaysOfLinks) {
  std::vector<Entry> entries = {directory("l0")};
  for (int i = 1; i < 40; ++i) {
    entries.push_back(symlink(fmt::format("l{}", i), fmt::format("l{0}/../l{0}", i - 1)));
  }
  entries.push_back(file("l39/x", ""));
  EXPECT_NE(error_of(entries), "");
}

TEST_F(LayerTest, RefusesWhatIsNoArchive) {
  const auto refused = [](std::string_view text) {
    const auto fd = memory_file();
    EXPECT_TRUE(write_all_at(fd.get(), std::as_bytes(std::span(text)), 0));
    return !layer_of_archive(fd.get());
  };
  EXPECT_FALSE(refused(""));
  EXPECT_FALSE(refused(std::string(1024, 0)));
  EXPECT_TRUE(refused("hello"));
  EXPECT_TRUE(refused(std::string(512, 'x')));
  EXPECT_TRUE(refused(std::string("\x1f\x8b\x08\0\0\0\0\0\0\0broken", 16)));
  const auto whole = archive_of({file("a", std::string(9000, 'a'))});
  ASSERT_EQ(::ftruncate(whole.get(), 5000), 0);
  EXPECT_FALSE(layer_of_archive(whole.get()));
}

// ---- more than one layer

TEST_F(LayerTest, HidesWhatWhiteoutsName) {
  const std::vector<Entry> below = {file("a", "1"), file("d/b", "2"), file("d/c", "3"),
                                    file("e/f", "4")};
  EXPECT_EQ(list_disk(disk_of({below,
                               {whiteout("", "a"), whiteout("d/", "b"), whiteout("", "e"),
                                whiteout("", "none")}})),
            "/d d 755\n/d/c f 3\n");
}

TEST_F(LayerTest, NeverHidesItsOwnFiles) {
  const std::vector<Entry> below = {file("a", "1"), directory("d", 0700), file("d/b", "2")};
  EXPECT_EQ(
      list_disk(disk_of(
          {below, {file("a", "11"), whiteout("", "a"), file("d/c", "3"), whiteout("", "d")}})),
      "/a f 11\n/d d 755\n/d/c f 3\n");
}

TEST_F(LayerTest, MakesDirectoriesOpaque) {
  const std::vector<Entry> below = {directory("d", 0700), file("d/b", "2"), file("e", "3")};
  EXPECT_EQ(list_disk(disk_of({below, {file("d/c", "4"), whiteout("d/", ".wh..opq")}})),
            "/d d 700\n/d/c f 4\n/e f 3\n");
  EXPECT_EQ(list_disk(disk_of({below, {file("f", "5"), whiteout("", ".wh..opq")}})), "/f f 5\n");
  EXPECT_EQ(list_disk(disk_of({below, {whiteout("", ".wh.plnk")}})),
            "/d d 700\n/d/b f 2\n/e f 3\n");
}

TEST_F(LayerTest, HidesWhatAFileReplacedForATime) {
  EXPECT_EQ(list_disk(disk_of({{file("d/a", "1")}, {file("d", "2"), directory("d")}})),
            "/d d 755\n");
}

TEST_F(LayerTest, KeepsTheAttributesOfImpliedDirectories) {
  const std::vector<Entry> below = {directory("d", 0700), symlink("lib", "usr/lib"),
                                    directory("usr/lib", 0711)};
  EXPECT_EQ(list_disk(disk_of({below, {file("d/a", "1"), file("lib/b", "2")}})),
            "/d d 700\n/d/a f 1\n/lib l usr/lib\n/usr d 755\n/usr/lib d 711\n/usr/lib/b f 2\n");
  EXPECT_EQ(list_disk(disk_of({below, {directory("lib"), file("lib/b", "2")}})),
            "/d d 700\n/lib d 755\n/lib/b f 2\n/usr d 755\n/usr/lib d 711\n");
}

TEST_F(LayerTest, LinksAcrossLayers) {
  const auto disk = disk_of({{file("a", "1")},
                             {hard_link("b", "a"), whiteout("", "a"), hard_link("d/c", "/a")},
                             {file("lib/x", "2"), hard_link("y", "lib/x")}});
  EXPECT_EQ(list_disk(disk), "/b f 1\n/d d 755\n/d/c f 1\n/lib d 755\n/lib/x f 2\n/y f 2\n");
  const auto image = erofs::read_image(disk->get());
  EXPECT_EQ(image->tree.child(erofs::Tree::kRoot, "b"),
            image->tree.child(*image->tree.child(erofs::Tree::kRoot, "d"), "c"));
  EXPECT_EQ(list_disk(disk_of({{file("a", "1")}, {hard_link("b", "none")}})),
            "error: the hard link 'b' leads to '/none', which no layer has");
}

// As Docker and podman have it, which set the attributes of each name, one after the other.
TEST_F(LayerTest, TheLastNameOfAFileSaysWhatItIsLike) {
  auto program = file("program", "1", 0600);
  program.inode.xattrs = {{"security.capability", std::string("\1\0\0\2\0", 5)}};
  auto second = hard_link("second", "program"), third = hard_link("third", "second");
  third.inode.mode = S_IFREG | 04755;
  third.inode.uid = 7;
  third.inode.gid = 8;
  third.inode.mtime = 1'234'567'890;
  third.inode.xattrs = {{"user.name", "value"}};
  auto shortcut = symlink("shortcut", "program"), again = hard_link("again", "shortcut");
  again.inode.uid = 9;
  auto below = hard_link("below", "program");
  below.inode.mode = S_IFREG | 0777;
  const auto disk = disk_of({{program, second, third, shortcut, again}, {below}});
  ASSERT_TRUE(disk) << disk.error().message();
  const auto tree = erofs::read_image(disk->get())->tree;
  const auto& inode = tree.at(*tree.child(erofs::Tree::kRoot, "program"));
  EXPECT_EQ(inode.mode, mode_t{S_IFREG | 04755});
  EXPECT_EQ(inode.uid, 7u);
  EXPECT_EQ(inode.gid, 8u);
  EXPECT_EQ(inode.mtime, 1'234'567'890);
  ASSERT_EQ(inode.xattrs.size(), 1u) << "what a program may do is lost by chown(2)";
  EXPECT_EQ(inode.xattrs[0].name, "user.name");
  const auto& link = tree.at(*tree.child(erofs::Tree::kRoot, "shortcut"));
  EXPECT_EQ(link.mode, mode_t{S_IFLNK | 0777});
  EXPECT_EQ(link.uid, 9u);
}

TEST_F(LayerTest, SharesNothingThatALaterLayerReplaces) {
  EXPECT_EQ(list_disk(disk_of({{file("a", "1"), hard_link("b", "a")}, {file("a", "2")}})),
            "/a f 2\n/b f 1\n");
}

TEST_F(LayerTest, RefusesADamagedLayer) {
  auto layer = *layer_of({file("a", "1")});
  ASSERT_EQ(::ftruncate(layer.get(), 4096), 0);
  std::vector<UniqueFd> layers;
  layers.push_back(std::move(layer));
  const auto disk = disk_of(layers);
  ASSERT_FALSE(disk);
  EXPECT_NE(disk.error().message().find("damaged"), std::string::npos);
}

}  // namespace
}  // namespace vmm::engine
