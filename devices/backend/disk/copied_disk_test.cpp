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
    disk_ = CopiedDisk::over(std::move(*disk));
    worker_ = std::move(Worker::start("test").value());
  }
  // A file that a copy goes to: its path.
  std::string begin(CopiedDisk::What what, const std::string& name) {
    const std::string path = directory_.path() + "/" + name;
    UniqueFd target(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    EXPECT_EQ(::ftruncate(target.get(), kSize), 0);
    disk_->begin(what, copy_to_raw_file(std::move(target)));
    return path;
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
  static std::string content(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::string bytes(kSize, '\0');
    EXPECT_TRUE(read_exact_at(fd.get(), std::as_writable_bytes(std::span(bytes)), 0));
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
  const auto copy = begin(CopiedDisk::What::all, "copy");
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
  EXPECT_TRUE(content(copy) == before) << "the copy is of another moment";
  EXPECT_TRUE(content(path_) == model) << "the disk lost something";
}

TEST_F(CopiedDiskTest, HolesStayWhereThereAreZeroes) {
  std::string zeroes(kSize, '\0');
  ASSERT_TRUE(write_all_at(disk_->plain_file(), std::as_bytes(std::span(zeroes)), 0));
  const auto copy = begin(CopiedDisk::What::all, "copy");
  ASSERT_TRUE(disk_->copy_rest());
  struct stat status{};
  ASSERT_EQ(::stat(copy.c_str(), &status), 0);
  EXPECT_EQ(status.st_blocks, 0);
}

// Two chunks, of which one byte each was written, and a third by write_zeroes.
TEST_F(CopiedDiskTest, CopiesWhatWasWrittenSinceTheRecordBegan) {
  const std::string before = test::TemporaryDirectory::pattern(kSize);
  constexpr std::size_t kChunk = CopiedDisk::kChunk;
  std::string early(512, 'e'), late(1024, 'l'), zeroes(4096, '\0');
  ASSERT_EQ(perform(Operation::write, 3 * kChunk, early), 0);
  disk_->start_record();
  ASSERT_EQ(perform(Operation::write, 8 * kChunk - 512, late), 0);
  ASSERT_EQ(perform(Operation::write_zeroes, 20 * kChunk, zeroes), 0);
  std::string read(4096, '?');
  ASSERT_EQ(perform(Operation::read, 30 * kChunk, read), 0);
  const auto copy = begin(CopiedDisk::What::written, "copy");
  disk_->start_record();
  std::string later(512, 'x');
  ASSERT_EQ(perform(Operation::write, 7 * kChunk, later), 0);
  ASSERT_EQ(perform(Operation::write, 40 * kChunk, later), 0);
  ASSERT_TRUE(disk_->copy_rest());
  std::string wanted(kSize, '\0'), now = before;
  now.replace(8 * kChunk - 512, late.size(), late).replace(20 * kChunk, zeroes.size(), zeroes);
  for (const std::size_t chunk : {7u, 8u, 20u}) {
    wanted.replace(chunk * kChunk, kChunk, now, chunk * kChunk, kChunk);
  }
  EXPECT_TRUE(content(copy) == wanted);
  const auto next = begin(CopiedDisk::What::written, "next");
  ASSERT_TRUE(disk_->copy_rest());
  now.replace(7 * kChunk, later.size(), later).replace(40 * kChunk, later.size(), later);
  wanted.assign(kSize, '\0');
  for (const std::size_t chunk : {7u, 40u}) {
    wanted.replace(chunk * kChunk, kChunk, now, chunk * kChunk, kChunk);
  }
  EXPECT_TRUE(content(next) == wanted);
}

TEST_F(CopiedDiskTest, AFailedCopyIsNoConcernOfTheGuest) {
  // A target that cannot be written to stands for a full file system.
  UniqueFd target(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  disk_->begin(CopiedDisk::What::all, copy_to_raw_file(std::move(target)));
  bool written = false;
  worker_->loop().call([&] {
    const auto channel = disk_->open_channel(worker_->loop(), [] {});
    std::string bytes(4096, 'x');
    const iovec buffer{bytes.data(), bytes.size()};
    channel->submit(
        {.operation = Operation::write, .length = bytes.size(), .buffers = std::span(&buffer, 1)});
    channel->commit();
    channel->wait();
    for (const auto& done : channel->reap()) written = done.error == 0;
  });
  EXPECT_TRUE(written);
  const auto result = disk_->copy_rest();
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message().find("cannot write the copy"), std::string::npos);
}

TEST_F(CopiedDiskTest, GivenUpIsAnErrorAndTheNextCopyIsNone) {
  begin(CopiedDisk::What::all, "copy");
  disk_->give_up();
  EXPECT_FALSE(disk_->copy_rest());
  const auto copy = begin(CopiedDisk::What::all, "next");
  EXPECT_TRUE(disk_->copy_rest());
  EXPECT_TRUE(content(copy) == content(path_));
}

}  // namespace
}  // namespace vmm::disk
