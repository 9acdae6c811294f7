#include "src/disk/qcow2/qcow2_disk.h"

#include <fmt/ranges.h>
#include <sys/stat.h>

#include <random>
#include <thread>

#include "src/disk/qcow2/check.h"
#include "src/disk/qcow2/create.h"
#include "src/disk/qcow2/image_test_support.h"

namespace vmm::disk::qcow2 {
namespace {

using test::DrivenDisk;
using test::qemu_img;
using test::shell;
using test::TemporaryDirectory;

constexpr std::size_t kSize = 6u << 20;

// How an image comes to be: a shell command in its directory, which makes `disk` over `base`.
struct Variant {
  const char* name;
  const char* command;  // nullptr: create_image() with `cluster`
  std::uint64_t cluster = 0;
  bool filled = false;  // it has base's content from the start
  bool direct = false;
  IoEngine io = IoEngine::automatic;
};
void PrintTo(const Variant& variant, std::ostream* stream) { *stream << variant.name; }
#define CREATE(options) "qemu-img create -q -f qcow2 -o " options " disk 6M"
#define OVER(options) "qemu-img create -q -f qcow2 -o " options " disk"
#define CONVERT(options) "qemu-img convert -f raw -O qcow2 " options " base disk"
const Variant kVariants[] = {
    {"Ours64K", nullptr, 64u << 10},
    {"Ours512", nullptr, 512},
    {"Ours4K", nullptr, 4096},
    {"Ours2M", nullptr, 2u << 20},
    {"OursDirect", nullptr, 64u << 10, false, true},
    {"OursThreads", nullptr, 64u << 10, false, false, IoEngine::threads},
    {"OursUring", nullptr, 64u << 10, false, false, IoEngine::uring},
    {"V2", CREATE("compat=0.10")},
    {"Refcount1", CREATE("refcount_bits=1")},
    {"Refcount2", CREATE("refcount_bits=2,cluster_size=4k")},
    {"Refcount4", CREATE("refcount_bits=4,cluster_size=512")},
    {"Refcount8", CREATE("refcount_bits=8")},
    {"Refcount32", CREATE("refcount_bits=32,cluster_size=1k")},
    {"Refcount64", CREATE("refcount_bits=64,cluster_size=512")},
    {"Preallocated", CREATE("preallocation=metadata")},
    {"PreallocatedSmall", CREATE("preallocation=metadata,cluster_size=4k")},
    {"OverRaw", OVER("backing_file=base,backing_fmt=raw"), 0, true},
    {"OverRaw2M", OVER("backing_file=base,backing_fmt=raw,cluster_size=2M"), 0, true},
    {"OverRawV2", OVER("backing_file=base,backing_fmt=raw,compat=0.10,cluster_size=4k"), 0, true},
    {"OverChain",
     "qemu-img convert -f raw -O qcow2 -c base below && "
     "qemu-img create -q -f qcow2 -o backing_file=below,backing_fmt=qcow2,cluster_size=4k middle &&"
     "qemu-img create -q -f qcow2 -o backing_file=middle,backing_fmt=qcow2 disk",
     0, true},
    {"Zlib", CONVERT("-c"), 0, true},
    {"ZlibSmall", CONVERT("-c -o cluster_size=4k"), 0, true},
    {"Zstd", CONVERT("-c -o compression_type=zstd"), 0, true},
    {"ZlibV2", CONVERT("-c -o compat=0.10"), 0, true},
    {"Snapshots", CONVERT("") " && qemu-img snapshot -c one disk && qemu-img snapshot -c two disk",
     0, true},
    {"SnapshotsSmall", CONVERT("-c -o cluster_size=1k") " && qemu-img snapshot -c one disk", 0,
     true},
};

class ImageTest : public ::testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_QEMU_IMG();
    base_ = directory_.file("base", kSize);
    path_ = directory_.path() + "/disk";
    model_ = GetParam().filled ? TemporaryDirectory::content(base_) : std::string(kSize, '\0');
    if (GetParam().command != nullptr) {
      const auto made = shell("cd " + directory_.path() + " && " + GetParam().command);
      ASSERT_EQ(made.code, 0) << made.output;
    } else {
      const auto made =
          create_image({.path = path_, .size = kSize, .cluster_size = GetParam().cluster});
      ASSERT_TRUE(made) << made.error().message();
    }
    auto probe = open_disk({.path = path_, .direct = GetParam().direct, .io = GetParam().io});
    if (!probe && (GetParam().direct || GetParam().io == IoEngine::uring)) {
      GTEST_SKIP() << probe.error().message();
    }
    probe = fail("closed");
    open();
  }
  void open() {
    disk_.reset();
    disk_ = DrivenDisk::open({.path = path_, .direct = GetParam().direct, .io = GetParam().io});
    ASSERT_TRUE(disk_);
  }
  void write(std::uint64_t offset, std::size_t length, char with) {
    std::string text(length, with);
    for (std::size_t i = 0; i < length; i += 512) text[i] = static_cast<char>(i / 512);
    ASSERT_EQ(disk_->write(offset, text), 0);
    model_.replace(offset, length, text);
  }
  // Others find the image in order, and with the same content.
  void expect_right() {
    EXPECT_EQ(disk_->read(0, kSize / 2) + disk_->read(kSize / 2, kSize / 2), model_);
    disk_.reset();
    const auto checked = shell("qemu-img check -f qcow2 " + path_);
    EXPECT_EQ(checked.code, 0) << checked.output;
    const auto ours = check_image(path_);
    ASSERT_TRUE(ours) << ours.error().message();
    EXPECT_TRUE(ours->is_clean()) << ours->leaks << " leaks, " << ours->corruptions
                                  << " corruptions: "
                                  << fmt::format("{}", fmt::join(ours->messages, "; "));
    qemu_img("convert -f qcow2 -O raw " + path_ + " " + path_ + ".raw");
    EXPECT_TRUE(TemporaryDirectory::content(path_ + ".raw") == model_);
    open();
  }

  TemporaryDirectory directory_;
  std::string base_, path_, model_;
  std::unique_ptr<DrivenDisk> disk_;
};

INSTANTIATE_TEST_SUITE_P(Variants, ImageTest, ::testing::ValuesIn(kVariants),
                         [](const auto& variant) { return std::string(variant.param.name); });

TEST_P(ImageTest, ReadsAndWrites) {
  EXPECT_TRUE(disk_->read(0, kSize) == model_);
  write(512, 1024, 'a');
  write(3u << 20, 1u << 20, 'b');
  write(kSize - 512, 512, 'c');
  EXPECT_EQ(disk_->read(0, 4096), model_.substr(0, 4096));
  write(1024, 512, 'd');
  expect_right();
  write(0, kSize, 'e');
  expect_right();
}

TEST_P(ImageTest, RandomRequestsMatchAModel) {
  std::mt19937 random(11);
  for (int i = 0; i < 400; ++i) {
    const std::uint64_t offset = random() % (kSize / 512) * 512;
    const std::uint64_t most = random() % 8 == 0 ? 4096 : 200;
    const std::uint64_t length =
        std::min<std::uint64_t>((1 + random() % most) * 512, kSize - offset);
    SCOPED_TRACE(i);
    switch (random() % 8) {
      case 0:
      case 1:
        ASSERT_TRUE(disk_->read(offset, length) == model_.substr(offset, length));
        break;
      case 2:
      case 3:
        write(offset, length, static_cast<char>(i));
        break;
      case 4:
        ASSERT_EQ(disk_->range(Operation::write_zeroes, offset, length, i % 2 == 0), 0);
        model_.replace(offset, length, std::string(length, '\0'));
        break;
      case 5: {
        ASSERT_EQ(disk_->range(Operation::discard, offset, length), 0);
        // Zeroes or what was there, sector by sector.
        const auto now = disk_->read(offset, length);
        for (std::uint64_t at = 0; at < length; at += 512) {
          const auto sector = now.substr(at, 512);
          ASSERT_TRUE(sector == model_.substr(offset + at, 512) ||
                      sector == std::string(512, '\0'));
        }
        model_.replace(offset, length, now);
        break;
      }
      case 6:
        ASSERT_EQ(disk_->flush(), 0);
        break;
      default:
        if (random() % 4 == 0) open();
    }
    if (i % 100 == 99) expect_right();
  }
  if (std::string_view(GetParam().name).starts_with("Snapshots")) {
    disk_.reset();
    qemu_img("snapshot -a one " + path_);
    qemu_img("convert -f qcow2 -O raw " + path_ + " " + path_ + ".raw");
    EXPECT_TRUE(TemporaryDirectory::content(path_ + ".raw") == TemporaryDirectory::content(base_));
  }
}

TEST_P(ImageTest, ChannelsSideBySide) {
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([this, t] {
      std::vector<std::string> texts(32, std::string(4096, static_cast<char>('a' + t)));
      std::vector<iovec> buffers;
      for (auto& text : texts) buffers.push_back({text.data(), text.size()});
      const auto loop = std::move(EventLoop::create().value());
      const auto channel = disk_->disk().open_channel(*loop, [] {});  // ends before its buffers
      std::size_t in_flight = 0;
      for (std::uint64_t i = 0; i < 320; ++i) {
        Request request;
        const std::uint64_t at = (i * 7 % 320 * 3 + t) * 4096;
        request.operation = i % 40 == 39 ? Operation::flush : Operation::write;
        if (request.operation == Operation::write) {
          request.offset = at;
          request.length = 4096;
          request.buffers = {&buffers[i % 32], 1};
        }
        channel->submit(request);
        channel->commit();
        for (++in_flight; in_flight > 16;) {
          channel->wait();
          for (const auto& done : channel->reap()) {
            EXPECT_EQ(done.error, 0);
            --in_flight;
          }
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (std::uint64_t t = 0; t < 3; ++t) {
    for (std::uint64_t i = 0; i < 320; ++i) {
      if (i % 40 == 39) continue;
      model_.replace((i * 7 % 320 * 3 + t) * 4096, 4096,
                     std::string(4096, static_cast<char>('a' + t)));
    }
  }
  expect_right();
}

TEST_P(ImageTest, ReadOnlyChangesNothing) {
  disk_.reset();
  const auto before = TemporaryDirectory::content(path_);
  {
    const auto reader = DrivenDisk::open({.path = path_, .read_only = true});
    ASSERT_TRUE(reader);
    EXPECT_TRUE(reader->disk().info().read_only);
    EXPECT_TRUE(reader->read(0, kSize) == model_);
    EXPECT_EQ(reader->flush(), 0);
  }
  EXPECT_TRUE(TemporaryDirectory::content(path_) == before);
}

// A saved machine that ends must not change its disk behind the save.
TEST_P(ImageTest, IsSettledBeforeItIsClosed) {
  write(1u << 20, 1u << 20, 'a');
  ASSERT_EQ(disk_->range(Operation::discard, 0, 2u << 20), 0);
  write(3u << 20, 200u << 10, 'b');
  ASSERT_TRUE(disk_->disk().settle());
  const auto content = TemporaryDirectory::content(path_);
  struct stat before{}, after{};
  ASSERT_EQ(::stat(path_.c_str(), &before), 0);
  disk_.reset();
  ASSERT_EQ(::stat(path_.c_str(), &after), 0);
  EXPECT_EQ(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
  EXPECT_EQ(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
  EXPECT_TRUE(TemporaryDirectory::content(path_) == content);
  // And it goes on after that, when the save failed.
  open();
  ASSERT_TRUE(disk_->disk().settle());
  model_.assign(kSize, '\0');
  ASSERT_EQ(disk_->write(0, model_), 0);
  expect_right();
}

TEST(Qcow2Disk, DiscardGivesSpaceBack) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/disk";
  ASSERT_TRUE(create_image({.path = path, .size = 64u << 20}));
  const auto space = [&path] {
    struct stat status{};
    EXPECT_EQ(::stat(path.c_str(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  };
  const auto disk = DrivenDisk::open({.path = path});
  ASSERT_TRUE(disk);
  ASSERT_EQ(disk->write(0, std::string(32u << 20, 'x')), 0);
  ASSERT_EQ(disk->flush(), 0);
  EXPECT_GE(space(), 32u << 20);
  ASSERT_EQ(disk->range(Operation::discard, 0, 32u << 20), 0);
  ASSERT_EQ(disk->flush(), 0);
  EXPECT_LT(space(), 1u << 20);
  // The clusters are used again: the file does not grow.
  ASSERT_EQ(disk->write(32u << 20, std::string(32u << 20, 'y')), 0);
  ASSERT_EQ(disk->flush(), 0);
  struct stat status{};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_LT(status.st_size, 44 << 20);
  EXPECT_EQ(disk->read(0, 4096), std::string(4096, '\0'));
}

// Writes that were looked up before a discard of their cluster, and reach the file after it, must
// not land in what the cluster is used for next.
TEST(Qcow2Disk, ClustersAreNotUsedAgainWhileTransfersAreInFlight) {
  for (const IoEngine io : {IoEngine::uring, IoEngine::threads}) {
    const TemporaryDirectory directory(test::kInMemory);
    const std::string path = directory.path() + "/disk";
    constexpr std::uint64_t kCluster = 4096, kClusters = 64;
    ASSERT_TRUE(create_image({.path = path, .size = 1u << 20, .cluster_size = kCluster}));
    auto opened = open_disk({.path = path, .io = io});
    if (!opened && io == IoEngine::uring) continue;  // the host forbids it
    ASSERT_TRUE(opened) << opened.error().message();
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        const std::string mine(kCluster, static_cast<char>('a' + t));
        const iovec buffer{const_cast<char*>(mine.data()), mine.size()};
        std::string now(kCluster, ' ');
        const iovec into{now.data(), now.size()};
        const auto loop = std::move(EventLoop::create().value());
        const auto channel = (*opened)->open_channel(*loop, [] {});
        const auto wait_for = [&](std::size_t count) {
          channel->commit();
          while (count > 0) {
            channel->wait();
            for (const auto& done : channel->reap()) {
              EXPECT_EQ(done.error, 0);
              --count;
            }
          }
        };
        std::mt19937 random(static_cast<unsigned>(t));
        for (int i = 0; i < 400; ++i) {
          Request request;
          request.operation = Operation::write;
          request.offset = (t * kClusters + random() % kClusters) * kCluster;
          request.length = kCluster;
          request.buffers = {&buffer, 1};
          channel->submit(request);
          wait_for(1);
          Request race = request;
          channel->submit(race);
          race.operation = Operation::discard;
          race.buffers = {};
          channel->submit(race);
          race.operation = Operation::flush;
          channel->submit(race);
          wait_for(3);
          channel->submit(request);
          wait_for(1);
          Request read = request;
          read.operation = Operation::read;
          read.buffers = {&into, 1};
          channel->submit(read);
          wait_for(1);
          EXPECT_EQ(now, mine);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    opened = fail("closed");
    const auto checked = check_image(path);
    ASSERT_TRUE(checked) << checked.error().message();
    EXPECT_TRUE(checked->is_clean());
    const auto disk = DrivenDisk::open({.path = path});
    ASSERT_TRUE(disk);
    for (std::uint64_t cluster = 0; cluster < 3 * kClusters; ++cluster) {
      const auto now = disk->read(cluster * kCluster, kCluster);
      const char expected = static_cast<char>('a' + cluster / kClusters);
      EXPECT_TRUE(now == std::string(kCluster, expected) || now == std::string(kCluster, '\0'));
    }
  }
}

// The refcount table of so small clusters is full after a few MiB, and moves.
TEST(Qcow2Disk, RefcountTableGrows) {
  SKIP_WITHOUT_QEMU_IMG();
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/disk";
  qemu_img("create -q -f qcow2 -o cluster_size=512,refcount_bits=64 " + path + " 64M");
  std::string model(24u << 20, 'g');
  {
    const auto disk = DrivenDisk::open({.path = path});
    ASSERT_TRUE(disk);
    ASSERT_EQ(disk->write(0, model), 0);
    ASSERT_EQ(disk->flush(), 0);
    EXPECT_TRUE(disk->read(0, model.size()) == model);
  }
  const auto checked = shell("qemu-img check -f qcow2 " + path);
  EXPECT_EQ(checked.code, 0) << checked.output;
  model.resize(64u << 20);
  qemu_img("convert -f qcow2 -O raw " + path + " " + path + ".raw");
  EXPECT_TRUE(TemporaryDirectory::content(path + ".raw") == model);
}

TEST(Qcow2Disk, DurableWritesAreInTheFileWhenTheyComplete) {
  SKIP_WITHOUT_QEMU_IMG();
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/disk";
  ASSERT_TRUE(create_image({.path = path, .size = 1u << 20}));
  const auto disk = DrivenDisk::open({.path = path});
  ASSERT_TRUE(disk);
  ASSERT_EQ(disk->write(4096, std::string(4096, 'd'), true), 0);
  qemu_img("convert -U -f qcow2 -O raw " + path + " " + path + ".raw");
  EXPECT_EQ(TemporaryDirectory::content(path + ".raw").substr(4096, 4096), std::string(4096, 'd'));
}

}  // namespace
}  // namespace vmm::disk::qcow2
