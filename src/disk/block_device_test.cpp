// Block devices: a loop device over a file, for who may make one.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <cstring>

#include "src/disk/disk.h"
#include "src/disk/qcow2/image_test_support.h"
#include "src/disk/temporary_file.h"

namespace vmm::disk {
namespace {

using test::DrivenDisk;
using test::TemporaryDirectory;

constexpr std::size_t kSize = 8u << 20;

// Goes with its last descriptor (LO_FLAGS_AUTOCLEAR).
class LoopDevice {
 public:
  static Result<LoopDevice> create(const std::string& file, std::uint32_t block_size,
                                   std::uint32_t flags = 0) {
    const auto control = TRY(open_file("/dev/loop-control", O_RDWR));
    const auto backing = TRY(open_file(file, O_RDWR));
    for (int attempt = 0; attempt < 8; ++attempt) {
      const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
      if (number < 0) return fail_errno("no free loop device");
      const std::string path = "/dev/loop" + std::to_string(number);
      auto device = TRY(open_file(path, O_RDWR));
      loop_config config{};
      config.fd = static_cast<std::uint32_t>(backing.get());
      config.block_size = block_size;
      config.info.lo_flags = LO_FLAGS_AUTOCLEAR | flags;
      if (::ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) {
        return LoopDevice(path, std::move(device));
      }
      if (errno != EBUSY) return fail_errno("cannot set '{}' up", path);
    }
    return fail("each free loop device was taken by someone else");
  }
  const std::string& path() const { return path_; }

 private:
  LoopDevice(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  std::string path_;
  UniqueFd fd_;
};

class BlockDeviceTest : public ::testing::TestWithParam<std::uint32_t> {
 protected:
  void SetUp() override {
    file_ = directory_.file("file", kSize);
    auto device = LoopDevice::create(file_, GetParam());
    if (!device) GTEST_SKIP() << device.error().message();
    device_.emplace(std::move(*device));
    model_ = TemporaryDirectory::pattern(kSize);
  }
  std::uint64_t space() const {
    struct stat status{};
    EXPECT_EQ(::stat(file_.c_str(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  }

  TemporaryDirectory directory_;
  std::string file_, model_;
  std::optional<LoopDevice> device_;
};

INSTANTIATE_TEST_SUITE_P(Blocks, BlockDeviceTest, ::testing::Values(512, 4096));

TEST_P(BlockDeviceTest, TellsItsSizes) {
  const auto disk = open_disk({.path = device_->path()});
  ASSERT_TRUE(disk) << disk.error().message();
  EXPECT_EQ((*disk)->info().size, kSize);
  EXPECT_EQ((*disk)->info().block_size, GetParam());
  EXPECT_GE((*disk)->info().physical_block_size, GetParam());
  EXPECT_TRUE((*disk)->info().can_discard);
}

TEST_P(BlockDeviceTest, ReadsAndWrites) {
  for (const bool direct : {false, true}) {
    const auto disk = DrivenDisk::open({.path = device_->path(), .direct = direct});
    ASSERT_TRUE(disk);
    EXPECT_TRUE(disk->read(0, kSize) == model_);
    const std::string text(8192, direct ? 'd' : 'b');
    EXPECT_EQ(disk->write(1u << 20, text), 0);
    model_.replace(1u << 20, text.size(), text);
    EXPECT_EQ(disk->write(kSize - 4096, text.substr(0, 4096), true), 0);
    model_.replace(kSize - 4096, 4096, text.substr(0, 4096));
    EXPECT_EQ(disk->flush(), 0);
    EXPECT_TRUE(disk->read(0, kSize) == model_);
    EXPECT_TRUE(TemporaryDirectory::content(file_) == model_);
  }
}

TEST_P(BlockDeviceTest, DiscardGivesSpaceBack) {
  const auto disk = DrivenDisk::open({.path = device_->path()});
  ASSERT_TRUE(disk);
  ASSERT_EQ(disk->flush(), 0);
  const auto before = space();
  ASSERT_EQ(disk->range(Operation::discard, 2u << 20, 4u << 20), 0);
  ASSERT_EQ(disk->flush(), 0);
  EXPECT_EQ(disk->read(0, 2u << 20), model_.substr(0, 2u << 20));
  EXPECT_EQ(disk->read(6u << 20, 2u << 20), model_.substr(6u << 20));
  EXPECT_LE(space() + (4u << 20), before + 4096) << "BLKDISCARD reached the file";
}

TEST_P(BlockDeviceTest, WritesZeroes) {
  const auto disk = DrivenDisk::open({.path = device_->path()});
  ASSERT_TRUE(disk);
  for (const bool may_unmap : {false, true}) {
    const std::uint64_t offset = may_unmap ? 4u << 20 : 1u << 20;
    ASSERT_EQ(disk->range(Operation::write_zeroes, offset, 1u << 20, may_unmap), 0);
    model_.replace(offset, 1u << 20, std::string(1u << 20, '\0'));
    EXPECT_TRUE(disk->read(0, kSize) == model_);
  }
}

// As after `losetup -r`: the device may be opened for writing, and each write fails.
TEST_P(BlockDeviceTest, AReadOnlyDeviceIsRefusedForWriting) {
  const auto device = LoopDevice::create(file_, GetParam(), LO_FLAGS_READ_ONLY);
  ASSERT_TRUE(device) << device.error().message();
  const auto written = open_disk({.path = device->path()});
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().message(),
            fmt::format("disk '{}' is a block device set to read-only; add ',ro' to attach it "
                        "read-only",
                        device->path()));
  const auto read = open_disk({.path = device->path(), .read_only = true});
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_TRUE((*read)->info().read_only);
}

// What `truncate` mends is a file.
TEST_P(BlockDeviceTest, AdviceIsForADevice) {
  for (const std::size_t size : {0u, 1536u}) {
    const auto device =
        LoopDevice::create(directory_.file("odd" + std::to_string(size), size), GetParam());
    ASSERT_TRUE(device) << device.error().message();
    const auto disk = open_disk({.path = device->path(), .format = ImageFormat::raw});
    EXPECT_EQ(disk.has_value(), size != 0 && GetParam() == 512);
    if (disk) continue;
    EXPECT_EQ(disk.error().message().find("truncate"), std::string::npos) << disk.error().message();
    EXPECT_NE(disk.error().message().find("block device"), std::string::npos)
        << disk.error().message();
  }
}

TEST_P(BlockDeviceTest, IsLockedAgainstASecondUser) {
  const auto disk = open_disk({.path = device_->path()});
  ASSERT_TRUE(disk) << disk.error().message();
  const auto second = open_disk({.path = device_->path()});
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message().find("in use"), std::string::npos) << second.error().message();
}

}  // namespace
}  // namespace vmm::disk
