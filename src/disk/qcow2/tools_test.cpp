// New files, conversion, commit, check and info.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "src/base/progress_for_test.h"
#include "src/disk/qcow2/chain.h"
#include "src/disk/qcow2/check.h"
#include "src/disk/qcow2/commit.h"
#include "src/disk/qcow2/compare.h"
#include "src/disk/qcow2/convert.h"
#include "src/disk/qcow2/create.h"
#include "src/disk/qcow2/image_info.h"
#include "src/disk/qcow2/image_test_support.h"
#include "src/disk/qcow2/layer.h"
#include "src/disk/qcow2/rebase.h"

namespace vmm::disk::qcow2 {
namespace {

using test::DrivenDisk;
using test::error_of;
using test::expect_clean;
using test::qemu_img;
using test::shell;
using test::TemporaryDirectory;

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
  refused({.size = 512, .cluster_size = 1000}, "cluster size of 1000");
  refused({.size = 512, .cluster_size = 4u << 20}, "cluster size of 4194304");
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
                  "cluster size of 7");
  EXPECT_EQ(files(), 1u);
}

// One sentence, the returned one; nothing about a file that goes away.
TEST_F(ToolsTest, ConvertToAFullDiskIsToldOnce) {
  const auto raw = make_raw("raw");
  struct rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  struct sigaction ignore{}, old{};
  ignore.sa_handler = SIG_IGN;
  ASSERT_EQ(::sigaction(SIGXFSZ, &ignore, &old), 0);
  struct rlimit limit = before;
  limit.rlim_cur = 1u << 20;
  ::testing::internal::CaptureStderr();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto error = error_of(convert({.source = raw, .target = path("x")}));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  ASSERT_EQ(::sigaction(SIGXFSZ, &old, nullptr), 0);
  EXPECT_SENTENCE(error, "cannot convert '" + raw + "' to '" + path("x") + "': File too large");
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

TEST_F(ToolsTest, ASnapshotsFilesAreNotChanged) {
  std::filesystem::create_directory(path("snapshot"));
  std::filesystem::create_directory_symlink("snapshot", path("link"));
  const auto base = make_raw("snapshot/blk0.img");
  ASSERT_TRUE(create_image({.path = path("mine"), .backing_path = "link/blk0.img"}));
  std::ofstream(path("snapshot/manifest.json")) << "{\"name\": \"a web page\"}";
  EXPECT_EQ(error_of(commit(path("mine"))), "no error");
  std::ofstream(path("snapshot/manifest.json")) << "{\n  \"format\": \"vmm-snapshot\",\n";
  const auto before = TemporaryDirectory::content(base);
  {
    const auto disk = DrivenDisk::open({.path = path("mine")});
    ASSERT_TRUE(disk);
    ASSERT_EQ(disk->write(0, std::string(4096, 'm')), 0);
  }
  const auto error = error_of(commit(path("mine")));
  EXPECT_SENTENCE(error, "is a part of the snapshot '");
  EXPECT_SENTENCE(error, "`vmm disk convert`");
  EXPECT_TRUE(TemporaryDirectory::content(base) == before);
  ASSERT_TRUE(create_image({.path = path("snapshot/blk0.qcow2"), .size = 1u << 20}));
  EXPECT_EQ(error_of(check_image(path("snapshot/blk0.qcow2"))), "no error");
  EXPECT_SENTENCE(error_of(check_image(path("snapshot/blk0.qcow2"), Repair::leaks)),
                  "is a part of the snapshot '");
}

// QEMU's locks, on the bytes where it has them (disk_test has them with QEMU's tools).
TEST_F(ToolsTest, WhatQemuHasOpenIsNotChanged) {
  make_raw("base");
  ASSERT_TRUE(create_image({.path = path("image"), .backing_path = "base"}));
  const auto locked_by_qemu = [this](const char* name) {
    const auto fd = open_file(path(name), O_RDWR).value().release();
    struct flock writes{.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};
    EXPECT_EQ(::fcntl(fd, F_OFD_SETLK, &writes), 0);
    return UniqueFd(fd);
  };
  {
    const auto lock = locked_by_qemu("image");
    EXPECT_SENTENCE(error_of(commit(path("image"))), "in use by another program, such as QEMU");
    EXPECT_SENTENCE(error_of(check_image(path("image"), Repair::leaks)), "such as QEMU");
    EXPECT_SENTENCE(error_of(convert({.source = path("image"), .target = path("x")})), "QEMU");
  }
  const auto lock = locked_by_qemu("base");
  EXPECT_SENTENCE(error_of(commit(path("image"))), "in use by another program, such as QEMU");
  EXPECT_SENTENCE(error_of(convert({.source = path("image"), .target = path("x")})), "QEMU");
  EXPECT_SENTENCE(
      error_of(convert({.source = path("base"), .target = path("x"), .format = ImageFormat::raw})),
      "QEMU");
}

// The time of a conversion is that of what a disk has, not of its size: reading all of this would
// take an hour.
TEST_F(ToolsTest, ConvertReadsNoHoles) {
  constexpr std::uint64_t kSize = 4ull << 40;
  const std::string data(70000, 'd');
  {
    const auto fd = open_file(path("sparse"), O_RDWR | O_CREAT, 0600);
    ASSERT_TRUE(fd);
    ASSERT_EQ(::ftruncate(fd->get(), kSize), 0);
    for (const std::uint64_t at : {std::uint64_t{12288}, kSize / 2 + 4096, kSize - 70000}) {
      ASSERT_TRUE(write_all_at(fd->get(), std::as_bytes(std::span(data)), at));
    }
  }
  ASSERT_TRUE(create_image({.path = path("overlay"), .backing_path = "sparse"}));
  for (const auto format : {ImageFormat::raw, ImageFormat::qcow2}) {
    SCOPED_TRACE(format_name(format));
    for (const char* source : {"sparse", "overlay"}) {
      const auto made = convert({.source = path(source), .target = path("made"), .format = format});
      ASSERT_TRUE(made) << made.error().message();
      struct stat status{};
      ASSERT_EQ(::stat(path("made").c_str(), &status), 0);
      EXPECT_LT(status.st_blocks * 512, 2 << 20);
      const auto disk = DrivenDisk::open({.path = path("made"), .format = format});
      ASSERT_TRUE(disk);
      EXPECT_EQ(disk->read(0, 12288), std::string(12288, '\0'));
      for (const std::uint64_t at : {std::uint64_t{12288}, kSize / 2 + 4096}) {
        EXPECT_EQ(disk->read(at - at % 512, 65536), data.substr(0, 65536));
      }
      EXPECT_EQ(disk->read(kSize - 65536, 65536), data.substr(0, 65536));
      EXPECT_EQ(disk->read(kSize / 4, 4096), std::string(4096, '\0'));
      ASSERT_EQ(::unlink(path("made").c_str()), 0);
    }
  }
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

// What `qemu-img check` finds wrong is found here, and the reverse.
TEST_F(CheckTest, AgreesWithQemu) {
  SKIP_WITHOUT_QEMU_IMG();
  const std::uint64_t l1 = 3 * kCluster, first = l2_entry(0), unused = l2_entry(9);
  const auto content = TemporaryDirectory::content(path("image"));
  const auto before = [&content](std::uint64_t at) { return load<std::uint64_t>(&content[at]); };
  const struct {
    std::uint64_t at, value;
  } kCases[] = {
      {l1, before(l1) | 1},
      {l1, before(l1) | 1ull << 62},
      {l1, 0x8000000000000000},
      {l1, 1},
      {first, before(first) | 2},
      {first, before(first) | 1ull << 61},
      {unused, 2},
      {unused, 0x8000000000000000},
      {unused, kZero},
      {unused, kCompressed},
      {unused, kCompressed | kCopied},
      {unused, kZero | (5 * kCluster + 512)},
      {kCluster, before(kCluster) | 8},
  };
  for (const auto& [at, value] : kCases) {
    SCOPED_TRACE(fmt::format("{:#x} at {:#x}", value, at));
    patch_u64(path("image"), at, value);
    const auto theirs = shell("qemu-img check -f qcow2 " + path("image"));
    const auto ours = check_image(path("image"));
    ASSERT_TRUE(ours) << ours.error().message();
    EXPECT_EQ(ours->corruptions > 0, theirs.code == 2) << theirs.output;
    if (theirs.code == 2) {
      const auto damaged = TemporaryDirectory::content(path("image"));
      EXPECT_GT(check_image(path("image"), Repair::leaks)->corruptions, 0u);
      EXPECT_TRUE(TemporaryDirectory::content(path("image")) == damaged) << "nothing is freed";
    }
    patch_u64(path("image"), at, before(at));
  }
  expect_clean(path("image"));
}

TEST_F(CheckTest, ADamagedEntryOfZeroesIsAnError) {
  patch_u64(path("image"), l2_entry(9), kZero | (5 * kCluster + 512));
  EXPECT_SENTENCE(error_of(convert({.source = path("image"), .target = path("x")})),
                  "Input/output error");
  if (!test::have_qemu_img()) return;
  const auto theirs = shell("qemu-img convert -O raw " + path("image") + " " + path("x"));
  EXPECT_NE(theirs.code, 0) << theirs.output;
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

// ---- cancelled at each point where that is possible

TEST_F(ToolsTest, ACancelledConversionLeavesNothing) {
  const auto raw = make_raw("raw");
  for (const auto format : {ImageFormat::qcow2, ImageFormat::raw}) {
    unsigned at = 0;
    for (;; ++at) {
      test::CancelsAt progress(at);
      const auto made =
          convert({.source = raw, .target = path("target"), .format = format}, progress);
      if (made) break;
      EXPECT_EQ(made.error().code(), kCancelled);
      EXPECT_EQ(files(), 1u) << at;
    }
    EXPECT_GT(at, 2u);
    std::filesystem::remove(path("target"));
  }
}

TEST_F(ToolsTest, ACancelledCommitIsFinishedByAnother) {
  const auto base = make_raw("base");
  ASSERT_TRUE(create_image({.path = path("overlay"), .backing_path = "base"}));
  std::string wanted = TemporaryDirectory::content(base);
  const std::string data(3u << 20, 'o');
  {
    const auto overlay = Chain::open({.path = path("overlay")});
    ASSERT_TRUE(overlay) << overlay.error().message();
    ASSERT_EQ((*overlay)->write(2u << 20, std::as_bytes(std::span(data))), 0);
  }
  wanted.replace(2u << 20, data.size(), data);
  for (unsigned at = 0;; ++at) {
    test::CancelsAt progress(at);
    const auto committed = commit(path("overlay"), progress);
    expect_clean(path("overlay"));
    const auto disk = DrivenDisk::open({.path = path("overlay"), .read_only = true});
    ASSERT_NE(disk, nullptr);
    EXPECT_TRUE(disk->read(0, wanted.size()) == wanted) << at;
    if (committed) {
      EXPECT_GT(at, 2u);
      break;
    }
    EXPECT_EQ(committed.error().code(), kCancelled);
  }
  EXPECT_TRUE(TemporaryDirectory::content(base) == wanted);
}

TEST_F(ToolsTest, ACancelledRebaseKeepsTheOldBackingFile) {
  const auto base = make_raw("base");
  const auto wanted = TemporaryDirectory::content(base);
  ASSERT_TRUE(create_image({.path = path("overlay"), .backing_path = "base"}));
  for (unsigned at = 0;; ++at) {
    test::CancelsAt progress(at);
    const auto rebased = rebase({.path = path("overlay"), .backing_path = ""}, progress);
    expect_clean(path("overlay"));
    EXPECT_EQ(describe_image(path("overlay"))->backing.size(), rebased ? 0u : 1u);
    const auto disk = DrivenDisk::open({.path = path("overlay"), .read_only = true});
    ASSERT_NE(disk, nullptr);
    EXPECT_TRUE(disk->read(0, wanted.size()) == wanted) << at;
    if (rebased) {
      EXPECT_GT(at, 1u);
      break;
    }
    EXPECT_EQ(rebased.error().code(), kCancelled);
  }
}

TEST_F(ToolsTest, ACancelledCheckOrComparisonSaysSo) {
  const auto raw = make_raw("raw");
  ASSERT_TRUE(convert({.source = raw, .target = path("image")}));
  test::CancelsAt first(0), second(0);
  const auto checked = check_image(path("image"), Repair::none, first);
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code(), kCancelled);
  const auto compared = compare({.first = raw, .second = path("image")}, second);
  ASSERT_FALSE(compared);
  EXPECT_EQ(compared.error().code(), kCancelled);
}

}  // namespace
}  // namespace vmm::disk::qcow2
