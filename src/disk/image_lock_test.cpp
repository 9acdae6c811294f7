// Locks against QEMU and its tools, with the tools themselves.
#include "src/disk/image_lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>

#include "src/disk/disk.h"
#include "src/disk/qcow2/image_test_support.h"
#include "src/disk/temporary_file.h"

namespace vmm::disk {
namespace {

using test::shell;
using test::TemporaryDirectory;

#define EXPECT_SENTENCE(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

// An image that qemu-io has open until this goes away.
class OpenInQemu {
 public:
  OpenInQemu(const std::string& directory, const std::string& words) {
    const std::string orders = directory + "/orders";
    EXPECT_EQ(::mkfifo(orders.c_str(), 0600), 0);
    output_ = ::popen(("qemu-io " + words + " < " + orders + " 2>&1").c_str(), "re");
    orders_ = UniqueFd(::open(orders.c_str(), O_WRONLY | O_CLOEXEC));
    constexpr std::string_view kOrder = "read 0 512\n";
    EXPECT_TRUE(write_all(orders_.get(), std::as_bytes(std::span(kOrder))));
    std::string line;  // of its answer: then it has the image open
    for (int c; (c = std::fgetc(output_)) != EOF && c != '\n';)
      line.push_back(static_cast<char>(c));
    EXPECT_SENTENCE(line, "read 512/512");
    EXPECT_EQ(::unlink(orders.c_str()), 0);
  }
  OpenInQemu(const OpenInQemu&) = delete;
  ~OpenInQemu() {
    orders_.reset();
    while (std::fgetc(output_) != EOF) {
    }
    ::pclose(output_);
  }

 private:
  UniqueFd orders_;
  std::FILE* output_ = nullptr;
};

class ImageLockTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_QEMU_IMG();
    if (shell("qemu-io --version").code != 0) GTEST_SKIP() << "qemu-io is not installed";
    path_ = directory_.path() + "/image";
    test::qemu_img(fmt::format("create -q -f {} {} 1M", GetParam(), path_));
  }
  DiskConfig config(bool read_only) const {
    return {.path = path_,
            .format = GetParam() == std::string_view("raw") ? ImageFormat::raw : ImageFormat::qcow2,
            .read_only = read_only};
  }
  std::string open_error(bool read_only) const {
    const auto disk = open_disk(config(read_only));
    return disk ? "no error" : disk.error().message();
  }
  void expect_refused(const std::string& command) const {
    const auto ran = shell(command);
    EXPECT_NE(ran.code, 0) << command;
    EXPECT_SENTENCE(ran.output, "lock");
  }
  std::string words(const char* command) const {
    return fmt::format("{} -f {} {}", command, GetParam(), path_);
  }

  TemporaryDirectory directory_;
  std::string path_;
};

INSTANTIATE_TEST_SUITE_P(Formats, ImageLockTest, ::testing::Values("raw", "qcow2"),
                         [](const auto& format) { return std::string(format.param); });

TEST_P(ImageLockTest, WhatQemuWritesIsRefused) {
  {
    const OpenInQemu qemu(directory_.path(), fmt::format("-f {} {}", GetParam(), path_));
    EXPECT_SENTENCE(open_error(false),
                    "in use by another program, such as QEMU, that writes to it");
    EXPECT_SENTENCE(open_error(true), "in use by another program, such as QEMU, that writes to it");
  }
  EXPECT_EQ(open_error(false), "no error");
}

TEST_P(ImageLockTest, ARunningMachinesDiskIsRefusedByQemu) {
  {
    const auto disk = open_disk(config(false));
    ASSERT_TRUE(disk) << disk.error().message();
    expect_refused(words("qemu-io -c 'write 0 512'"));
    expect_refused(words("qemu-img resize") + " 2M");
    EXPECT_EQ(shell(words("qemu-img info -U")).code, 0);
  }
  EXPECT_EQ(shell(words("qemu-io -c 'write 0 512'")).code, 0);
}

TEST_P(ImageLockTest, ReadersGoTogether) {
  {
    const auto disk = open_disk(config(true));
    ASSERT_TRUE(disk) << disk.error().message();
    EXPECT_EQ(open_error(true), "no error");
    EXPECT_EQ(shell(words("qemu-io -r -c 'read 0 512'")).code, 0);
    expect_refused(words("qemu-io -c 'write 0 512'"));
  }
  const OpenInQemu qemu(directory_.path(), fmt::format("-r -f {} {}", GetParam(), path_));
  EXPECT_EQ(open_error(true), "no error");
}

TEST_P(ImageLockTest, AnImageThatQemuReadsForItselfIsNotWritten) {
  test::qemu_img(
      fmt::format("create -q -f qcow2 -b image -F {} {}/top", GetParam(), directory_.path()));
  const OpenInQemu qemu(directory_.path(), fmt::format("-f qcow2 {}/top", directory_.path()));
  if (GetParam() == std::string_view("raw")) {
    EXPECT_EQ(open_error(false), "no error") << "qemu-io lets others write to a raw backing file";
  } else {
    EXPECT_SENTENCE(open_error(false), "that does not let others write to it");
  }
  EXPECT_EQ(open_error(true), "no error");
}

// A lock that was refused leaves nothing behind on a descriptor that stays open.
TEST(ImageLock, ARefusedLockIsLetGo) {
  const TemporaryDirectory directory;
  const auto path = directory.file("image", 512);
  const UniqueFd ours(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  UniqueFd other(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  struct flock written{.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1};
  ASSERT_EQ(::fcntl(other.get(), F_OFD_SETLK, &written), 0);
  const auto refused = lock_image(ours.get(), "image", ImageUse::write);
  ASSERT_FALSE(refused);
  EXPECT_SENTENCE(refused.error().message(), "disk 'image' is in use by another program");
  struct flock all{.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
  written.l_type = F_UNLCK;
  ASSERT_EQ(::fcntl(other.get(), F_OFD_SETLK, &written), 0);
  ASSERT_EQ(::fcntl(other.get(), F_OFD_GETLK, &all), 0);
  EXPECT_EQ(all.l_type, F_UNLCK);
  EXPECT_TRUE(lock_image(ours.get(), "image", ImageUse::write));
}

}  // namespace
}  // namespace vmm::disk
