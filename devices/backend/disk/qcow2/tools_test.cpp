// New files, conversion, commit, check and info.
#include <dirent.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "devices/backend/disk/qcow2/chain.h"
#include "devices/backend/disk/qcow2/check.h"
#include "devices/backend/disk/qcow2/commit.h"
#include "devices/backend/disk/qcow2/convert.h"
#include "devices/backend/disk/qcow2/create.h"
#include "devices/backend/disk/qcow2/image_info.h"
#include "devices/backend/disk/qcow2/image_test_support.h"
#include "devices/backend/disk/qcow2/layer.h"

namespace vmm::disk::qcow2 {
namespace {

using test::DrivenDisk;
using test::qemu_img;
using test::shell;
using test::TemporaryDirectory;

#define EXPECT_SENTENCE(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

template <typename T>
std::string error_of(const Result<T>& result) {
  return result ? "no error" : result.error().message();
}

class ToolsTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(directory_.path()), {}));
  }
  // 8 MiB with data, holes, and what packs well.
  std::string make_raw(const std::string& name) const {
    std::string content(8u << 20, '\0');
    content.replace(1u << 20, 1u << 20, TemporaryDirectory::pattern(1u << 20));
    for (std::size_t i = 3u << 20; i < (3u << 20) + 300000; ++i) {
      content[i] = static_cast<char>(i * i * 7919 >> 8);
    }
    content.back() = 'e';
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }
  void expect_clean(const std::string& file) const {
    const auto ours = check_image(file);
    ASSERT_TRUE(ours) << ours.error().message();
    EXPECT_TRUE(ours->is_clean()) << ours->leaks << " leaks, " << ours->corruptions;
    if (!test::have_qemu_img()) return;
    const auto checked = shell("qemu-img check -f qcow2 " + file);
    EXPECT_EQ(checked.code, 0) << checked.output;
  }

  TemporaryDirectory directory_;
};

TEST_F(ToolsTest, CreatesWhatQemuTakes) {
  for (const std::uint64_t cluster : {512u, 4096u, 65536u, 2097152u}) {
    const auto file = path(fmt::format("new{}", cluster));
    ASSERT_TRUE(create_image({.path = file, .size = 10u << 30, .cluster_size = cluster}));
    expect_clean(file);
    const auto info = describe_image(file);
    ASSERT_TRUE(info) << info.error().message();
    EXPECT_EQ(info->size, 10u << 30);
    EXPECT_EQ(info->header.cluster_size(), cluster);
    EXPECT_EQ(info->header.version, 3u);
  }
}

TEST_F(ToolsTest, CreateRefuses) {
  const auto refused = [&](CreateOptions options, const char* part) {
    if (options.path.empty()) options.path = path("x");
    EXPECT_SENTENCE(error_of(create_image(options)), part);
  };
  refused({.size = 0}, "0 bytes");
  refused({.size = 1000}, "1000 bytes");
  refused({.size = UINT64_MAX - 511}, "too large");
  refused({.size = 1ull << 40, .cluster_size = 512}, "too large for clusters of 512");
  refused({.size = 512, .cluster_size = 1000}, "clusters of 1000");
  refused({.size = 512, .cluster_size = 4u << 20}, "clusters of 4194304");
  refused({.size = 512, .backing_path = "none"}, "does not exist");
  refused({.format = ImageFormat::raw, .size = 512, .backing_path = "none"}, "no backing file");
  refused({.path = path("no/x"), .size = 512}, "No such file");
  refused({.path = "", .size = 0}, "0 bytes");
  EXPECT_EQ(files(), 0u) << "nothing is left behind";
  directory_.file("there", 512);
  refused({.path = path("there"), .size = 512}, "exists already");
  EXPECT_EQ(TemporaryDirectory::content(path("there")), TemporaryDirectory::pattern(512));
  EXPECT_EQ(files(), 1u);
}

TEST_F(ToolsTest, ABackingFilesNameMustHaveRoom) {
  const std::string name(600, 'x');
  EXPECT_SENTENCE(error_of(create_image(
                      {.path = path("x"), .size = 512, .cluster_size = 512, .backing_path = name})),
                  "File name too long");
  std::string deep = ".";
  while (deep.size() < 600) deep += "/.";
  directory_.file("base", 4096);
  EXPECT_SENTENCE(error_of(create_image(
                      {.path = path("x"), .cluster_size = 512, .backing_path = deep + "/base"})),
                  "has no room");
  EXPECT_EQ(files(), 1u);
}

TEST_F(ToolsTest, ConvertsBothWays) {
  const auto raw = make_raw("raw");
  const auto content = TemporaryDirectory::content(raw);
  const std::optional<Compression> methods[] = {std::nullopt, Compression::zlib, Compression::zstd};
  for (const auto method : methods) {
    for (const std::uint64_t cluster : {512u, 4096u, 65536u, 2097152u}) {
      SCOPED_TRACE(cluster);
      const auto made = convert(
          {.source = raw, .target = path("image"), .compression = method, .cluster_size = cluster});
      ASSERT_TRUE(made) << made.error().message();
      expect_clean(path("image"));
      ASSERT_TRUE(
          convert({.source = path("image"), .target = path("back"), .format = ImageFormat::raw}));
      EXPECT_TRUE(TemporaryDirectory::content(path("back")) == content);
      struct stat status{};
      ASSERT_EQ(::stat(path("back").c_str(), &status), 0);
      EXPECT_LT(status.st_blocks * 512, 4 << 20) << "sparse";
      ASSERT_EQ(::stat(path("image").c_str(), &status), 0);
      // A megabyte of pattern, and 300 000 bytes that do not pack well.
      if (method && cluster == 65536) {
        EXPECT_LT(status.st_size, 1 << 20);
      }
      if (test::have_qemu_img()) {
        qemu_img("convert -f qcow2 -O raw " + path("image") + " " + path("theirs"));
        EXPECT_TRUE(TemporaryDirectory::content(path("theirs")) == content);
      }
      ASSERT_EQ(::unlink(path("image").c_str()), 0);
      ASSERT_EQ(::unlink(path("back").c_str()), 0);
    }
  }
}

TEST_F(ToolsTest, ConvertFlattensAChain) {
  const auto base = make_raw("base");
  ASSERT_TRUE(create_image({.path = path("overlay"), .backing_path = "base"}));
  auto model = TemporaryDirectory::content(base);
  {
    const auto disk = DrivenDisk::open({.path = path("overlay")});
    ASSERT_TRUE(disk);
    ASSERT_EQ(disk->write(4096, std::string(8192, 'o')), 0);
    ASSERT_EQ(disk->range(Operation::write_zeroes, 1u << 20, 512u << 10, true), 0);
  }
  model.replace(4096, 8192, std::string(8192, 'o'));
  model.replace(1u << 20, 512u << 10, std::string(512u << 10, '\0'));
  ASSERT_TRUE(convert({.source = path("overlay"), .target = path("flat")}));
  ASSERT_EQ(::unlink(base.c_str()), 0);
  const auto disk = DrivenDisk::open({.path = path("flat")});
  ASSERT_TRUE(disk);
  EXPECT_TRUE(disk->read(0, model.size()) == model);
}

TEST_F(ToolsTest, ConvertLeavesNothingOfAFailure) {
  const auto raw = make_raw("raw");
  EXPECT_SENTENCE(error_of(convert({.source = path("none"), .target = path("x")})),
                  "does not exist");
  EXPECT_SENTENCE(error_of(convert({.source = raw, .target = raw})), "exists already");
  EXPECT_SENTENCE(error_of(convert({.source = raw, .target = path("x"), .cluster_size = 7})),
                  "clusters of 7");
  EXPECT_EQ(files(), 1u);
}

TEST_F(ToolsTest, CommitWritesIntoTheBackingFile) {
  for (const auto format : {ImageFormat::raw, ImageFormat::qcow2}) {
    const auto raw = make_raw("raw");
    const auto base = path("base");
    ASSERT_TRUE(convert({.source = raw, .target = base, .format = format}));
    ASSERT_TRUE(
        create_image({.path = path("overlay"), .backing_path = "base", .backing_format = format}));
    auto model = TemporaryDirectory::content(raw);
    {
      const auto disk = DrivenDisk::open({.path = path("overlay")});
      ASSERT_TRUE(disk);
      ASSERT_EQ(disk->write(512, std::string(100 * 1024, 'o')), 0);
      ASSERT_EQ(disk->range(Operation::write_zeroes, 1u << 20, 512u << 10, true), 0);
      EXPECT_SENTENCE(error_of(commit(path("overlay"))), "in use");
    }
    model.replace(512, 100 * 1024, std::string(100 * 1024, 'o'));
    model.replace(1u << 20, 512u << 10, std::string(512u << 10, '\0'));
    const auto committed = commit(path("overlay"));
    ASSERT_TRUE(committed) << committed.error().message();
    EXPECT_EQ(check_image(path("overlay"))->allocated, 0u);
    expect_clean(path("overlay"));
    for (const auto& file : {base, path("overlay")}) {
      const auto disk = DrivenDisk::open(
          {.path = file, .format = file == base ? format : ImageFormat::qcow2, .read_only = true});
      ASSERT_TRUE(disk);
      EXPECT_TRUE(disk->read(0, model.size()) == model);
    }
    for (const auto& file : {base, path("overlay"), raw}) ASSERT_EQ(::unlink(file.c_str()), 0);
  }
}

TEST_F(ToolsTest, CommitRefuses) {
  EXPECT_SENTENCE(error_of(commit(make_raw("raw"))), "no backing file");
  ASSERT_TRUE(create_image({.path = path("alone"), .size = 1u << 20}));
  EXPECT_SENTENCE(error_of(commit(path("alone"))), "no backing file");
  ASSERT_TRUE(create_image({.path = path("larger"), .size = 9u << 20, .backing_path = "raw"}));
  EXPECT_SENTENCE(error_of(commit(path("larger"))), "extend that first");
}

// A guest of a qcow2 disk may write what it likes at its start; no raw file may come of that.
TEST_F(ToolsTest, NoRawFileLooksLikeAnImage) {
  make_raw("base");
  ASSERT_TRUE(create_image({.path = path("overlay"), .backing_path = "base"}));
  {
    const auto disk = DrivenDisk::open({.path = path("overlay")});
    ASSERT_TRUE(disk);
    ASSERT_EQ(disk->write(0, "QFI\xfb" + std::string(508, 'x')), 0);
  }
  EXPECT_SENTENCE(
      error_of(
          convert({.source = path("overlay"), .target = path("x"), .format = ImageFormat::raw})),
      "begins as a qcow2 image does");
  EXPECT_SENTENCE(error_of(commit(path("overlay"))), "begins as a qcow2 image does");
  EXPECT_EQ(error_of(convert({.source = path("overlay"), .target = path("x")})), "no error");
}

// ---- check

void patch(const std::string& path, std::uint64_t offset, std::span<const std::byte> bytes) {
  const auto fd = open_file(path, O_RDWR);
  ASSERT_TRUE(fd);
  ASSERT_TRUE(write_all_at(fd->get(), bytes, offset));
}

void patch_u64(const std::string& path, std::uint64_t offset, std::uint64_t value) {
  std::byte bytes[8];
  store(bytes, value);
  patch(path, offset, bytes);
}

// Header, refcount table, block and L1 take a cluster each; then comes what was written.
constexpr std::uint64_t kCluster = 64u << 10;

class CheckTest : public ToolsTest {
 protected:
  void SetUp() override {
    ASSERT_TRUE(create_image({.path = path("image"), .size = 1u << 20}));
    const auto disk = DrivenDisk::open({.path = path("image")});
    ASSERT_TRUE(disk);
    ASSERT_EQ(disk->write(0, std::string(3 * kCluster, 'c')), 0);
  }
  std::uint64_t l2_entry(std::uint64_t index) const {
    const auto content = TemporaryDirectory::content(path("image"));
    const auto table = load<std::uint64_t>(&content[3 * kCluster]) & kOffsetMask;
    return table + index * 8;
  }
};

TEST_F(CheckTest, FindsAndFreesLeaks) {
  expect_clean(path("image"));
  const std::byte one[] = {std::byte{0}, std::byte{1}, std::byte{0}, std::byte{2}};
  patch(path("image"), 2 * kCluster + 100 * 2, one);
  const auto found = check_image(path("image"));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->leaks, 2u);
  EXPECT_EQ(found->corruptions, 0u);
  const auto repaired = check_image(path("image"), Repair::leaks);
  ASSERT_TRUE(repaired) << repaired.error().message();
  EXPECT_EQ(repaired->repaired, 2u);
  EXPECT_TRUE(repaired->is_clean());
  expect_clean(path("image"));
}

TEST_F(CheckTest, FindsCorruptions) {
  const auto expect = [&](std::uint64_t entry, const char* part) {
    patch_u64(path("image"), l2_entry(0), entry);
    const auto found = check_image(path("image"));
    ASSERT_TRUE(found);
    EXPECT_GT(found->corruptions, 0u);
    ASSERT_FALSE(found->messages.empty());
    EXPECT_SENTENCE(found->messages[0], part);
    // What is corrupt stays as it is.
    const auto before = TemporaryDirectory::content(path("image"));
    const auto repaired = check_image(path("image"), Repair::leaks);
    ASSERT_TRUE(repaired);
    EXPECT_GT(repaired->corruptions, 0u);
  };
  expect(1ull << 40 | kCopied, "behind the end of the file");
  expect(5 * kCluster + 512, "does not begin a cluster");
  expect(4 * kCluster, "not marked as writable");
  expect(3 * kCluster | kCopied, "used 2 times and counted 1");
  expect(kCopied | kCompressed | (5 * kCluster), "compressed cluster 0 is marked as writable");
}

TEST_F(CheckTest, MendsADirtyImage) {
  // As lazy refcounts leave it: used clusters that nobody counted.
  const std::vector<std::byte> nothing(64);
  patch(path("image"), 2 * kCluster + 4 * 2, nothing);
  patch_u64(path("image"), kIncompatibleField, kIncompatibleDirty);
  EXPECT_SENTENCE(error_of(open_disk({.path = path("image")})), "vmm disk check --repair");
  EXPECT_GT(check_image(path("image"))->corruptions, 0u);
  const auto repaired = check_image(path("image"), Repair::leaks);
  ASSERT_TRUE(repaired) << repaired.error().message();
  EXPECT_TRUE(repaired->was_dirty);
  EXPECT_TRUE(repaired->is_clean());
  expect_clean(path("image"));
  EXPECT_EQ(error_of(open_disk({.path = path("image")})), "no error");
}

TEST_F(CheckTest, MakesRefcountBlocksThatAreMissing) {
  patch_u64(path("image"), kCluster, 0);  // the table's only entry
  patch_u64(path("image"), kIncompatibleField, kIncompatibleDirty);
  const auto repaired = check_image(path("image"), Repair::leaks);
  ASSERT_TRUE(repaired) << repaired.error().message();
  EXPECT_TRUE(repaired->is_clean());
  expect_clean(path("image"));
  const auto disk = DrivenDisk::open({.path = path("image")});
  ASSERT_TRUE(disk);
  EXPECT_EQ(disk->read(0, 3 * kCluster), std::string(3 * kCluster, 'c'));
}

TEST_F(CheckTest, MendsWhatQemuLeavesWithLazyRefcounts) {
  SKIP_WITHOUT_QEMU_IMG();
  if (shell("qemu-io --version").code != 0) GTEST_SKIP() << "qemu-io is not installed";
  qemu_img("create -q -f qcow2 -o lazy_refcounts=on " + path("lazy") + " 64M");
  (void)shell("qemu-io -c 'write -P 7 0 5M' -c flush -c 'sigraise 9' " + path("lazy"));
  EXPECT_SENTENCE(error_of(open_disk({.path = path("lazy")})), "vmm disk check --repair");
  const auto repaired = check_image(path("lazy"), Repair::leaks);
  ASSERT_TRUE(repaired) << repaired.error().message();
  EXPECT_TRUE(repaired->is_clean());
  expect_clean(path("lazy"));
  const auto disk = DrivenDisk::open({.path = path("lazy")});
  ASSERT_TRUE(disk);
  EXPECT_EQ(disk->read(0, 4096), std::string(4096, '\7'));
}

TEST_F(CheckTest, RefusesWhatItCannotCheck) {
  EXPECT_SENTENCE(error_of(check_image(make_raw("raw"))), "is raw");
  EXPECT_SENTENCE(error_of(check_image(path("none"))), "does not exist");
  const auto machine = open_disk({.path = path("image")});
  ASSERT_TRUE(machine);
  EXPECT_SENTENCE(error_of(check_image(path("image"))), "in use");
}

TEST_F(ToolsTest, InfoTellsTheChainAndWhatIsMissingInIt) {
  make_raw("base");
  ASSERT_TRUE(create_image({.path = path("a"), .backing_path = "base"}));
  ASSERT_TRUE(create_image({.path = path("b"), .backing_path = "a"}));
  const auto info = describe_image(path("b"));
  ASSERT_TRUE(info) << info.error().message();
  ASSERT_EQ(info->backing.size(), 2u);
  EXPECT_EQ(info->backing[0].path, path("a"));
  EXPECT_EQ(info->backing[1].format, ImageFormat::raw);
  ASSERT_EQ(::unlink(path("base").c_str()), 0);
  EXPECT_SENTENCE(describe_image(path("b"))->backing_error, "base' does not exist");
}

// ---- layers

TEST_F(ToolsTest, ALayerHidesWhatIsBehindItWithZeroesToo) {
  constexpr std::size_t kChunk = CopiedDisk::kChunk;
  constexpr std::size_t kSize = 5 * kChunk + 1536;
  const std::string below(kSize, 'b');
  std::ofstream(path("below"), std::ios::binary) << below;
  std::filesystem::create_directory(path("in"));
  std::ofstream(path("in/layer"));
  auto target = copy_to_layer({.path = path("in/layer"),
                               .size = kSize,
                               .backing_path = "../below",
                               .backing_format = ImageFormat::raw});
  ASSERT_TRUE(target) << target.error().message();
  const std::string data(kChunk, 'd'), zeroes(kChunk, '\0');
  const auto write = [&](std::size_t chunk, const std::string& bytes) {
    const auto written = (*target)->write(chunk * kChunk, std::as_bytes(std::span(bytes)));
    EXPECT_TRUE(written) << written.error().message();
  };
  write(3, data);
  write(1, zeroes);
  write(5, data.substr(0, 1536));
  const auto finished = (*target)->finish();
  ASSERT_TRUE(finished) << finished.error().message();
  target->reset();
  std::string wanted = below;
  wanted.replace(3 * kChunk, kChunk, data).replace(kChunk, kChunk, zeroes);
  wanted.replace(5 * kChunk, 1536, data, 0, 1536);
  const auto disk = DrivenDisk::open({.path = path("in/layer"), .read_only = true});
  ASSERT_NE(disk, nullptr);
  EXPECT_TRUE(disk->read(0, kSize) == wanted);
  expect_clean(path("in/layer"));
  if (!test::have_qemu_img()) return;
  std::ofstream(path("wanted"), std::ios::binary) << wanted;
  qemu_img("compare -f qcow2 -F raw " + path("in/layer") + " " + path("wanted"));
}

}  // namespace
}  // namespace vmm::disk::qcow2
