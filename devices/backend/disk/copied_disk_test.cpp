#include "devices/backend/disk/copied_disk.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <random>
#include <thread>

#include "devices/backend/disk/raw_disk.h"
#include "devices/backend/disk/temporary_file.h"
#include "src/base/worker.h"

namespace vmm::disk {
namespace {

constexpr std::size_t kSize = 4u << 20;

class CopiedDiskTest : public ::testing::Test {
 protected:
  CopiedDiskTest() {
    path_ = directory_.file("disk", kSize);
    auto disk = RawDisk::open({.path = path_});
    EXPECT_TRUE(disk);
    UniqueFd target(
        ::open((directory_.path() + "/copy").c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    EXPECT_EQ(::ftruncate(target.get(), kSize), 0);
    disk_ = CopiedDisk::over(std::move(*disk), std::move(target));
    worker_ = std::move(Worker::start("test").value());
  }
  // Carries one request out, on the worker.
  int perform(Operation operation, std::uint64_t offset, std::string& bytes) {
    int error = -1;
    worker_->loop().call([&] {
      const auto channel = disk_->open_channel(worker_->loop(), [] {});
      const iovec buffer{bytes.data(), bytes.size()};
      Request request{.operation = operation, .offset = offset, .length = bytes.size()};
      if (operation == Operation::read || operation == Operation::write) {
        request.buffers = std::span(&buffer, 1);
      }
      channel->submit(request);
      channel->commit();
      channel->wait();
      for (const auto& done : channel->reap()) error = done.error;
    });
    return error;
  }
  static std::string content(int fd) {
    std::string bytes(kSize, '\0');
    EXPECT_TRUE(read_exact_at(fd, std::as_writable_bytes(std::span(bytes)), 0));
    return bytes;
  }

  test::TemporaryDirectory directory_{test::kInMemory};
  std::string path_;
  std::unique_ptr<CopiedDisk> disk_;
  std::unique_ptr<Worker> worker_;
};

TEST_F(CopiedDiskTest, CopyIsOfTheMomentAndTheDiskGoesOn) {
  const std::string before = test::TemporaryDirectory::pattern(kSize);
  std::string model = before;
  std::mt19937 random(7);
  std::thread copier([this] { EXPECT_TRUE(disk_->copy_rest()); });
  for (int i = 0; i < 400; ++i) {
    const std::uint64_t offset = random() % (kSize / 512 - 300) * 512;
    const std::size_t length = (1 + random() % 300) * 512;
    switch (random() % 4) {
      case 0: {
        std::string bytes(length, '\0');
        ASSERT_EQ(perform(Operation::write_zeroes, offset, bytes), 0);
        model.replace(offset, length, bytes);
        break;
      }
      case 1: {
        std::string bytes(length, '?');
        ASSERT_EQ(perform(Operation::read, offset, bytes), 0);
        EXPECT_EQ(bytes, model.substr(offset, length));
        break;
      }
      default: {
        std::string bytes(length, static_cast<char>(random()));
        ASSERT_EQ(perform(Operation::write, offset, bytes), 0);
        model.replace(offset, length, bytes);
      }
    }
  }
  copier.join();
  EXPECT_TRUE(content(disk_->target()) == before) << "the copy is of another moment";
  EXPECT_TRUE(content(disk_->plain_file()) == model) << "the disk lost something";
}

TEST_F(CopiedDiskTest, HolesStayWhereThereAreZeroes) {
  std::string zeroes(kSize, '\0');
  auto inner = disk_->take_inner();
  ASSERT_TRUE(write_all_at(inner->plain_file(), std::as_bytes(std::span(zeroes)), 0));
  UniqueFd target(
      ::open((directory_.path() + "/other").c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  ASSERT_EQ(::ftruncate(target.get(), kSize), 0);
  const auto copied = CopiedDisk::over(std::move(inner), std::move(target));
  ASSERT_TRUE(copied->copy_rest());
  struct stat status{};
  ASSERT_EQ(::fstat(copied->target(), &status), 0);
  EXPECT_EQ(status.st_blocks, 0);
}

TEST_F(CopiedDiskTest, AFailedCopyIsNoConcernOfTheGuest) {
  // A target that cannot be written to stands for a full file system.
  UniqueFd target(::open((directory_.path() + "/copy").c_str(), O_RDONLY | O_CLOEXEC));
  const auto copied = CopiedDisk::over(disk_->take_inner(), std::move(target));
  disk_ = nullptr;
  bool written = false;
  worker_->loop().call([&] {
    const auto channel = copied->open_channel(worker_->loop(), [] {});
    std::string bytes(4096, 'x');
    const iovec buffer{bytes.data(), bytes.size()};
    channel->submit(
        {.operation = Operation::write, .length = bytes.size(), .buffers = std::span(&buffer, 1)});
    channel->commit();
    channel->wait();
    for (const auto& done : channel->reap()) written = done.error == 0;
  });
  EXPECT_TRUE(written);
  const auto result = copied->copy_rest();
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message().find("cannot write the copy"), std::string::npos);
}

TEST_F(CopiedDiskTest, GivenUpIsAnError) {
  disk_->give_up();
  EXPECT_FALSE(disk_->copy_rest());
}

}  // namespace
}  // namespace vmm::disk
