#include "src/disk/copied_disk.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <random>
#include <thread>

#include "src/base/worker.h"
#include "src/disk/qcow2/create.h"
#include "src/disk/qcow2/image_test_support.h"
#include "src/disk/raw_disk.h"
#include "src/disk/temporary_file.h"

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
    disk_->begin(what, copy_to_raw_file(std::move(target), path));
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
  disk_->begin(CopiedDisk::What::all, copy_to_raw_file(std::move(target), "there/blk0.img"));
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
  const auto named = fmt::format("cannot write 'there/blk0.img', the copy of disk '{}': ", path_);
  EXPECT_TRUE(result.error().message().starts_with(named)) << result.error().message();
}

TEST_F(CopiedDiskTest, GivenUpIsAnErrorAndTheNextCopyIsNone) {
  begin(CopiedDisk::What::all, "copy");
  disk_->give_up();
  EXPECT_FALSE(disk_->copy_rest());
  const auto copy = begin(CopiedDisk::What::all, "next");
  EXPECT_TRUE(disk_->copy_rest());
  EXPECT_TRUE(content(copy) == content(path_));
}

// A petabyte, of which one part has data.
class HugeDisk : public Disk {
 public:
  static constexpr std::uint64_t kSize = 1ull << 50;
  static constexpr DataRange kData{(7ull << 40) + 100 * 512, 3 * CopiedDisk::kChunk};

  const DiskInfo& info() const override { return info_; }
  const std::string& name() const override { return name_; }
  std::unique_ptr<Channel> open_channel(EventLoop&, std::function<void()>) override {
    return std::make_unique<IdleChannel>();
  }
  Result<void> sync() override { return {}; }
  Result<void> read(std::uint64_t, std::span<std::byte> target) override {
    std::ranges::fill(target, std::byte{7});
    ++reads;
    return {};
  }
  Result<DataRange> next_data(std::uint64_t offset) override {
    const std::uint64_t end = kData.offset + kData.length;
    if (offset >= end) return DataRange{kSize, 0};
    const std::uint64_t first = std::max(offset, kData.offset);
    return DataRange{first, end - first};
  }
  std::size_t reads = 0;

 private:
  struct IdleChannel : Channel {
    void submit(const Request&) override {}
    void commit() override {}
    std::span<const Completion> reap() override { return {}; }
    void wait() override {}
  };
  DiskInfo info_{.size = kSize};
  std::string name_ = "huge";
};

class ListingTarget : public CopyTarget {
 public:
  explicit ListingTarget(std::vector<std::uint64_t>& chunks)
      : CopyTarget("list"), chunks_(chunks) {}
  Result<void> write(std::uint64_t offset, std::span<const std::byte>) override {
    chunks_.push_back(offset / CopiedDisk::kChunk);
    return {};
  }
  Result<void> finish() override { return {}; }

 private:
  std::vector<std::uint64_t>& chunks_;
};

std::uint64_t resident_bytes() {
  std::uint64_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * 4096;
}

TEST(CopiedHugeDisk, CostsWhatIsInIt) {
  const auto before = resident_bytes();
  auto huge = std::make_unique<HugeDisk>();
  auto& inner = *huge;
  const auto disk = CopiedDisk::over(std::move(huge));
  std::vector<std::uint64_t> chunks;
  disk->begin(CopiedDisk::What::all, std::make_unique<ListingTarget>(chunks));
  ASSERT_TRUE(disk->copy_rest());
  const std::uint64_t first = HugeDisk::kData.offset / CopiedDisk::kChunk;
  // The part does not begin where a chunk does.
  EXPECT_EQ(chunks, (std::vector{first, first + 1, first + 2, first + 3}));
  EXPECT_EQ(inner.reads, 4u);
  EXPECT_LT(resident_bytes(), before + (64u << 20));
}

// What the guest gives up while a copy is made is not read where there was nothing, and a layer
// gets zeroes for it: what lies below it must not be seen.
TEST(CopiedHugeDisk, DiscardedHolesAreNotRead) {
  auto huge = std::make_unique<HugeDisk>();
  auto& inner = *huge;
  const auto disk = CopiedDisk::over(std::move(huge));
  const auto loop = std::move(EventLoop::create().value());
  const auto channel = disk->open_channel(*loop, [] {});
  const auto discard = [&](std::uint64_t chunk, std::uint64_t count) {
    channel->submit({.operation = Operation::discard,
                     .offset = chunk * CopiedDisk::kChunk,
                     .length = count * CopiedDisk::kChunk});
  };
  std::vector<std::uint64_t> chunks;
  disk->begin(CopiedDisk::What::all, std::make_unique<ListingTarget>(chunks));
  disk->start_record();
  discard(5, 32768);
  EXPECT_EQ(inner.reads, 0u);
  ASSERT_TRUE(disk->copy_rest());
  EXPECT_EQ(chunks.size(), 4u);
  inner.reads = 0;
  chunks.clear();
  disk->start_record();
  discard(5, 3);
  discard(HugeDisk::kSize / CopiedDisk::kChunk - 1, 1);
  disk->begin(CopiedDisk::What::written, std::make_unique<ListingTarget>(chunks));
  ASSERT_TRUE(disk->copy_rest());
  EXPECT_EQ(chunks, (std::vector<std::uint64_t>{5, 6, 7, (1ull << 34) - 1}));
  EXPECT_EQ(inner.reads, 0u);
}

// 1 TiB with 4 KiB of data at its end: the time of a copy is that of what is in it.
TEST(CopiedSparseFile, HolesAreNotRead) {
  const test::TemporaryDirectory directory;
  const std::string path = directory.path() + "/sparse";
  constexpr std::uint64_t kTebibyte = 1ull << 40;
  {
    const UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(file.get(), kTebibyte), 0);
    const std::string text(4096, 'x');
    ASSERT_TRUE(write_all_at(file.get(), std::as_bytes(std::span(text)), kTebibyte - 4096));
  }
  auto opened = RawDisk::open({.path = path});
  ASSERT_TRUE(opened) << opened.error().message();
  const auto first = (*opened)->next_data(512);
  ASSERT_TRUE(first) << first.error().message();
  EXPECT_GE(first->offset, kTebibyte - (1u << 20));
  EXPECT_EQ(first->offset + first->length, kTebibyte);
  const auto disk = CopiedDisk::over(std::move(*opened));
  std::vector<std::uint64_t> chunks;
  disk->begin(CopiedDisk::What::all, std::make_unique<ListingTarget>(chunks));
  ASSERT_TRUE(disk->copy_rest());
  EXPECT_EQ(chunks, std::vector{kTebibyte / CopiedDisk::kChunk - 1});
}

// Holes of an image are what it has no clusters for, and what the raw file behind it has no data
// of.
TEST(CopiedSparseFile, AnImageTellsItsData) {
  const test::TemporaryDirectory directory;
  const std::string base = directory.path() + "/base", top = directory.path() + "/top";
  constexpr std::uint64_t kGibibyte = 1ull << 30;
  const std::string text(1u << 20, 'x');
  {
    const UniqueFd file(::open(base.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(file.get(), kGibibyte), 0);
    ASSERT_TRUE(write_all_at(file.get(), std::as_bytes(std::span(text)), 512u << 20));
  }
  ASSERT_TRUE(qcow2::create_image({.path = top,
                                   .size = 2 * kGibibyte,
                                   .backing_path = "base",
                                   .backing_format = ImageFormat::raw}));
  const auto disk = test::DrivenDisk::open({.path = top});
  ASSERT_TRUE(disk);
  ASSERT_EQ(disk->write(kGibibyte + 4096, std::string(512, 'y')), 0);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> found;
  for (std::uint64_t at = 0; at < 2 * kGibibyte;) {
    const auto data = disk->disk().next_data(at);
    ASSERT_TRUE(data) << data.error().message();
    if (data->length > 0) found.emplace_back(data->offset, data->length);
    at = data->offset + data->length;
  }
  const std::vector<std::pair<std::uint64_t, std::uint64_t>> expected{{512u << 20, 1u << 20},
                                                                      {kGibibyte, 64u << 10}};
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace vmm::disk
