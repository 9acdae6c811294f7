// resize, rebase and compare, beside qemu-img.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "src/disk/qcow2/chain.h"
#include "src/disk/qcow2/check.h"
#include "src/disk/qcow2/compare.h"
#include "src/disk/qcow2/create.h"
#include "src/disk/qcow2/image_info.h"
#include "src/disk/qcow2/image_test_support.h"
#include "src/disk/qcow2/rebase.h"
#include "src/disk/qcow2/resize.h"

namespace vmm::disk::qcow2 {
namespace {

using test::DrivenDisk;
using test::error_of;
using test::qemu_img;
using test::shell;
using test::TemporaryDirectory;

class ChangeTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }
  std::string make(const std::string& name, CreateOptions options) const {
    options.path = path(name);
    const auto made = create_image(options);
    EXPECT_TRUE(made) << made.error().message();
    return options.path;
  }
  void write(const std::string& name, std::uint64_t offset, const std::string& text) const {
    const auto disk = DrivenDisk::open({.path = path(name)});
    ASSERT_TRUE(disk);
    ASSERT_EQ(disk->write(offset, text), 0);
  }
  std::string read(const std::string& name, std::uint64_t offset, std::size_t length) const {
    const auto disk = DrivenDisk::open({.path = path(name), .read_only = true});
    return disk ? disk->read(offset, length) : "";
  }
  void expect_clean(const std::string& name) const { test::expect_clean(path(name)); }
  std::string resized(const std::string& name, std::uint64_t size,
                      Shrink shrink = Shrink::refused) {
    return error_of(resize({.path = path(name), .size = size, .shrink = shrink}));
  }

  TemporaryDirectory directory_;
};

// ---- resize

TEST_F(ChangeTest, GrowsAndShrinksARawFile) {
  directory_.file("raw", 8192);
  EXPECT_EQ(resized("raw", 16384), "no error");
  EXPECT_EQ(read("raw", 0, 8192), TemporaryDirectory::pattern(8192));
  EXPECT_EQ(read("raw", 8192, 8192), std::string(8192, '\0'));
  EXPECT_SENTENCE(resized("raw", 4096), "has 16384 bytes, and what lies behind 4096 would be lost");
  EXPECT_EQ(resized("raw", 4096, Shrink::allowed), "no error");
  EXPECT_EQ(std::filesystem::file_size(path("raw")), 4096u);
  EXPECT_EQ(error_of(resize({.path = path("raw"), .size = 4096, .relative = true})), "no error");
  EXPECT_EQ(std::filesystem::file_size(path("raw")), 8192u);
}

TEST_F(ChangeTest, GrowsAnImage) {
  const struct {
    std::uint64_t cluster, size, larger;
  } kCases[] = {{512, 1u << 20, 100u << 20},   {4096, 1u << 20, 40ull << 30},
                {65536, 1536, 1ull << 20},     {65536, 1u << 20, 64ull << 40},
                {65536, 1u << 20, 2ull << 50}, {2097152, 1u << 20, 1ull << 50}};
  for (const auto& [cluster, size, larger] : kCases) {
    SCOPED_TRACE(fmt::format("{} {} {}", cluster, size, larger));
    make("image", {.size = size, .cluster_size = cluster});
    const auto pattern = TemporaryDirectory::pattern(size);
    write("image", 0, pattern);
    EXPECT_EQ(resized("image", larger), "no error");
    expect_clean("image");
    EXPECT_EQ(describe_image(path("image"))->size, larger);
    EXPECT_TRUE(read("image", 0, size) == pattern);
    EXPECT_EQ(read("image", size, 4096), std::string(4096, '\0'));
    write("image", larger - 4096, std::string(4096, 'e'));
    expect_clean("image");
    EXPECT_EQ(read("image", larger - 4096, 4096), std::string(4096, 'e'));
    ASSERT_EQ(::unlink(path("image").c_str()), 0);
  }
}

// With changes that no flush has seen, before and after, and again.
TEST_F(ChangeTest, GrowsAnImageThatIsOpen) {
  directory_.file("base", 3u << 20);
  for (const std::uint64_t cluster : {4096u, 65536u}) {
    SCOPED_TRACE(cluster);
    make("image", {.size = 1u << 20, .cluster_size = cluster, .backing_path = "base"});
    auto disk = DrivenDisk::open({.path = path("image")});
    ASSERT_TRUE(disk);
    std::uint64_t size = 1u << 20;
    std::vector<std::uint64_t> written;
    const auto write_some = [&] {
      written.clear();
      for (std::uint64_t at = 0; at < size; at += size / 8) {
        const auto letter = static_cast<char>('a' + written.size());
        ASSERT_EQ(disk->write(at, std::string(512, letter)), 0);
        written.push_back(at);
      }
      ASSERT_EQ(disk->range(Operation::discard, size / 16, size / 16), 0);
      ASSERT_EQ(disk->write(size - 512, std::string(512, 'z')), 0);
    };
    for (const std::uint64_t larger : {2ull << 20, 100ull << 20, 64ull << 30}) {
      write_some();
      const auto grown = disk->grow(larger);
      ASSERT_TRUE(grown) << grown.error().message();
      EXPECT_EQ(disk->disk().info().size, larger);
      EXPECT_EQ(disk->read(size - 512, 1024), std::string(512, 'z') + std::string(512, '\0'));
      EXPECT_EQ(disk->read(size + (512u << 10), 512), std::string(512, '\0'))
          << "nothing of the backing file is seen";
      for (std::size_t i = 0; i < written.size(); ++i) {
        EXPECT_EQ(disk->read(written[i], 512), std::string(512, static_cast<char>('a' + i)));
      }
      size = larger;
    }
    write_some();
    const bool fits = cluster == 65536;
    EXPECT_SENTENCE(error_of(disk->grow(2ull << 50)), fits ? "no error" : "too small");
    EXPECT_EQ(disk->disk().info().size, fits ? 2ull << 50 : size);
    disk.reset();
    expect_clean("image");
    EXPECT_EQ(read("image", size - 512, 512), std::string(512, 'z'));
    ASSERT_EQ(::unlink(path("image").c_str()), 0);
  }
}

TEST_F(ChangeTest, ShrinksAnImageAndShowsNothingOfItAgain) {
  make("image", {.size = 4u << 20});
  write("image", 0, std::string(4u << 20, 'x'));
  EXPECT_SENTENCE(resized("image", 1u << 20), "say --shrink to allow it");
  EXPECT_EQ(resized("image", (1u << 20) + 512, Shrink::allowed), "no error");
  expect_clean("image");
  EXPECT_EQ(check_image(path("image"))->allocated, 17u);
  EXPECT_EQ(resized("image", 4u << 20), "no error");
  expect_clean("image");
  EXPECT_EQ(read("image", 0, (1u << 20) + 512), std::string((1u << 20) + 512, 'x'));
  EXPECT_EQ(read("image", (1u << 20) + 512, 1u << 20), std::string(1u << 20, '\0'));
}

TEST_F(ChangeTest, WhatIsNewIsNotTheBackingFiles) {
  directory_.file("base", 3u << 20);
  for (const char* version : {"0.10", "1.1"}) {
    if (test::have_qemu_img()) {
      qemu_img(fmt::format("create -q -f qcow2 -o compat={} -b base -F raw {} 1000448", version,
                           path("image")));
    } else {
      make("image", {.size = 1000448, .backing_path = "base"});
    }
    EXPECT_EQ(resized("image", 10u << 20), "no error");
    expect_clean("image");
    EXPECT_EQ(read("image", 0, 1000448), TemporaryDirectory::pattern(1000448));
    EXPECT_TRUE(read("image", 1000448, 5u << 20) == std::string(5u << 20, '\0'));
    EXPECT_LT(check_image(path("image"))->allocated, 34u);
    ASSERT_EQ(::unlink(path("image").c_str()), 0);
  }
}

TEST_F(ChangeTest, ResizeRefuses) {
  make("image", {.size = 1u << 20});
  EXPECT_SENTENCE(resized("image", 1000), "invalid disk size of 1000 bytes");
  EXPECT_SENTENCE(resized("image", 0, Shrink::allowed), "invalid disk size of 0 bytes");
  EXPECT_SENTENCE(resized("image", UINT64_MAX), "too large");
  EXPECT_SENTENCE(error_of(resize({.path = path("image"), .size = kMaxDiskSize, .relative = true})),
                  "1048576 + 2251799813685248 bytes is too large");
  EXPECT_SENTENCE(resized("none", 512), "does not exist");
  make("small", {.size = 1u << 20, .cluster_size = 512});
  EXPECT_SENTENCE(resized("small", 1ull << 40), "clusters of 512 bytes, too small");
  expect_clean("small");
  {
    const auto machine = open_disk({.path = path("image")});
    ASSERT_TRUE(machine);
    EXPECT_SENTENCE(resized("image", 2u << 20), "in use by another vmm");
  }
  std::filesystem::create_directory(path("snapshot"));
  std::ofstream(path("snapshot/manifest.json")) << "{\"format\": \"vmm-snapshot\"}";
  make("snapshot/blk0.qcow2", {.size = 1u << 20});
  EXPECT_SENTENCE(resized("snapshot/blk0.qcow2", 2u << 20), "a part of the snapshot");
  if (!test::have_qemu_img()) return;
  qemu_img("snapshot -c one " + path("image"));
  EXPECT_SENTENCE(resized("image", 2u << 20), "internal snapshots");
}

// ---- rebase

// Two bases that have some in common, and an image over the first one that has some of its own.
class RebaseTest : public ChangeTest {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_QEMU_IMG();
    std::string one = TemporaryDirectory::pattern(4u << 20);
    one.replace(3u << 20, 256u << 10, std::string(256u << 10, '\0'));
    std::ofstream(path("one"), std::ios::binary) << one;
    std::string two = one;
    two.replace(1u << 20, 100000, std::string(100000, 't'));
    two.replace(2u << 20, 100000, std::string(100000, '\0'));
    two.replace(3u << 20, 4096, std::string(4096, 'n'));
    std::ofstream(path("two"), std::ios::binary) << two;
    std::filesystem::copy_file(path("two"), path("short"));
    std::filesystem::resize_file(path("short"), 2500000);
    qemu_img("convert -f raw -O qcow2 -c " + path("two") + " " + path("packed"));
    std::ofstream(path("long"), std::ios::binary) << two + std::string(2u << 20, 'l');
  }
  void make_overlay(const std::string& options) {
    qemu_img(
        fmt::format("create -q -f qcow2 -o {} -b one -F raw {} 5000192", options, path("image")));
    const auto disk = DrivenDisk::open({.path = path("image")});
    ASSERT_TRUE(disk);
    ASSERT_EQ(disk->write((1u << 20) + 8192, std::string(8192, 'm')), 0);
    ASSERT_EQ(disk->range(Operation::write_zeroes, 1u << 19, 1u << 17, true), 0);
  }
  std::string info() { return shell("qemu-img info " + path("image")).output; }
};

TEST_F(RebaseTest, TheImageReadsAsBefore) {
  for (const char* options : {"compat=1.1", "compat=0.10", "cluster_size=512", "cluster_size=2M"}) {
    for (const std::string to : {"two", "short", "long", "packed", "one", ""}) {
      SCOPED_TRACE(fmt::format("{} to '{}'", options, to));
      make_overlay(options);
      if (HasFatalFailure()) return;
      const auto before = read("image", 0, 5000192);
      const auto done = rebase({.path = path("image"), .backing_path = to});
      ASSERT_TRUE(done) << done.error().message();
      EXPECT_TRUE(read("image", 0, 5000192) == before);
      expect_clean("image");
      if (to.empty()) {
        EXPECT_EQ(info().find("backing file"), std::string::npos) << info();
      } else {
        EXPECT_SENTENCE(info(), "backing file: " + to);
        EXPECT_SENTENCE(info(),
                        fmt::format("backing file format: {}", to == "packed" ? "qcow2" : "raw"));
      }
      qemu_img("convert -f qcow2 -O raw " + path("image") + " " + path("theirs"));
      EXPECT_TRUE(TemporaryDirectory::content(path("theirs")) == before);
      ASSERT_EQ(::unlink(path("image").c_str()), 0);
    }
  }
}

// What is the same in both takes no space.
TEST_F(RebaseTest, TakesOverWhatDiffersAlone) {
  make_overlay("compat=1.1");
  const auto before = check_image(path("image"))->allocated;
  ASSERT_TRUE(rebase({.path = path("image"), .backing_path = "two"}));
  EXPECT_LE(check_image(path("image"))->allocated, before + 5);
}

TEST_F(RebaseTest, UnsafeChangesTheNameAlone) {
  make_overlay("compat=1.1,lazy_refcounts=on");
  const auto before = TemporaryDirectory::content(path("image"));
  const RebaseOptions moved{.path = path("image"),
                            .backing_path = "a/very/long/path/to/what/was/moved",
                            .backing_format = ImageFormat::raw,
                            .keeps_content = false};
  ASSERT_TRUE(rebase(moved));
  EXPECT_SENTENCE(info(), "backing file: a/very/long/path/to/what/was/moved");
  EXPECT_SENTENCE(info(), "lazy refcounts: true");
  EXPECT_TRUE(TemporaryDirectory::content(path("image")).substr(65536) == before.substr(65536));
  auto back = moved;
  back.backing_path = "one";
  ASSERT_TRUE(rebase(back));
  EXPECT_TRUE(TemporaryDirectory::content(path("image")) == before) << "the feature names too";
}

TEST_F(RebaseTest, Refuses) {
  make_overlay("compat=1.1");
  const auto refused = [&](RebaseOptions options, const char* part) {
    if (options.path.empty()) options.path = path("image");
    EXPECT_SENTENCE(error_of(rebase(options)), part);
  };
  refused({.path = path("one"), .backing_path = "two"}, "is raw, and has no backing file");
  refused({.backing_path = "none"}, "none' does not exist");
  refused({.backing_path = "image"}, "cannot be its own backing file");
  refused({.backing_path = std::string(2000, 'x')}, "File name too long");
  refused({.backing_path = "two", .keeps_content = false}, "format of a backing file is needed");
  const auto machine = open_disk({.path = path("image")});
  ASSERT_TRUE(machine);
  refused({.backing_path = "two"}, "in use by another vmm");
}

// ---- compare

TEST_F(RebaseTest, ComparesAsQemuDoes) {
  make_overlay("compat=1.1");
  qemu_img("convert -f qcow2 -O raw " + path("image") + " " + path("flat"));
  std::filesystem::copy_file(path("flat"), path("longer"));
  std::filesystem::resize_file(path("longer"), 1ull << 40);
  std::filesystem::copy_file(path("flat"), path("last"));
  {
    const auto fd = open_file(path("last"), O_WRONLY);
    ASSERT_TRUE(write_all_at(fd->get(), std::as_bytes(std::span("x", 1)), 5000191));
  }
  constexpr std::array kFiles = {"one",   "two",    "short", "packed", "long",
                                 "image", "longer", "flat",  "last"};
  for (const std::string first : kFiles) {
    for (const std::string second : kFiles) {
      SCOPED_TRACE(first + " " + second);
      const auto theirs =
          shell("qemu-img compare -U " + path(first) + " " + path(second) + " 2>/dev/null");
      const auto ours = compare({.first = path(first), .second = path(second)});
      ASSERT_TRUE(ours) << ours.error().message();
      EXPECT_EQ(ours->differ_at ? 1 : 0, theirs.code) << theirs.output;
    }
  }
  const auto last = compare({.first = path("flat"), .second = path("last")});
  EXPECT_EQ(last->differ_at, 5000191u);
  EXPECT_SENTENCE(error_of(compare({.first = path("flat"), .second = path("none")})),
                  "does not exist");
}

// ---- info

TEST_F(ChangeTest, InfoTellsOfADiskThatIsInUse) {
  directory_.file("base", 1u << 20);
  make("image", {.backing_path = "base"});
  EXPECT_FALSE(describe_image(path("image"))->in_use);
  const auto machine = open_disk({.path = path("image")});
  ASSERT_TRUE(machine);
  const auto info = describe_image(path("image"));
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_TRUE(info->in_use);
  EXPECT_EQ(info->size, 1u << 20);
  ASSERT_EQ(info->backing.size(), 1u);
  EXPECT_EQ(info->backing[0].path, path("base"));
  EXPECT_EQ(info->backing_error, "");
  EXPECT_FALSE(describe_image(path("base"))->in_use) << "it is read";
  EXPECT_SENTENCE(error_of(describe_image(directory_.path())), "is a directory");
  EXPECT_SENTENCE(error_of(describe_image("/dev/null")), "neither a file nor a block device");
}

}  // namespace
}  // namespace vmm::disk::qcow2
