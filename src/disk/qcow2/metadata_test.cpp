// What a damaged or hostile image says of its own tables, and a refcount table that cannot grow.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>

#include "src/disk/qcow2/chain.h"
#include "src/disk/qcow2/check.h"
#include "src/disk/qcow2/cluster_set.h"
#include "src/disk/qcow2/create.h"
#include "src/disk/qcow2/image_test_support.h"

namespace vmm::disk::qcow2 {
namespace {

using test::DrivenDisk;
using test::shell;
using test::TemporaryDirectory;

TEST(ClusterSet, FindsWhatLiesBeforeItsClusters) {
  ClusterSet set;
  EXPECT_EQ(set.free_from(3, 7), 7u);
  EXPECT_EQ(set.add_all({9, 4, 4, 2}), std::vector<std::uint64_t>{4});
  EXPECT_TRUE(set.add(6));
  EXPECT_FALSE(set.add(6));
  EXPECT_EQ(set.free_from(0, 10), 2u);
  EXPECT_EQ(set.free_from(2, 10), 0u);
  EXPECT_EQ(set.free_from(7, 1), 1u);
  EXPECT_EQ(set.free_from(10, UINT64_MAX), UINT64_MAX);
  set.remove(2);
  set.remove(3);
  EXPECT_FALSE(set.contains(2));
  EXPECT_EQ(set.free_from(0, 10), 4u);
}

// Header, refcount table, refcount block and L1 table take a cluster each, then come the L2 table
// and data.
constexpr std::uint64_t kCluster = 64u << 10;
enum At : std::uint64_t { kHeader, kRefcountTable, kRefcountBlock, kL1, kFirst };

class MetadataTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = directory_.path() + "/image";
    ASSERT_TRUE(create_image({.path = path_, .size = 1u << 30}));
    const auto disk = DrivenDisk::open({.path = path_});
    ASSERT_TRUE(disk);
    ASSERT_EQ(disk->write(0, std::string(4 * kCluster, 'c')), 0);
    ASSERT_EQ(disk->flush(), 0);
  }
  std::uint64_t field(std::uint64_t at) const {
    const auto content = TemporaryDirectory::content(path_);
    return load<std::uint64_t>(&content[at]);
  }
  void patch(std::uint64_t at, std::uint64_t value) const {
    std::byte bytes[8];
    store(bytes, value);
    const auto fd = open_file(path_, O_RDWR);
    ASSERT_TRUE(fd);
    ASSERT_TRUE(write_all_at(fd->get(), bytes, at));
  }
  std::uint64_t l2_table() const { return field(kL1 * kCluster) & kOffsetMask; }
  std::string cluster(std::uint64_t number) const {
    return TemporaryDirectory::content(path_).substr(number * kCluster, kCluster);
  }

  TemporaryDirectory directory_;
  std::string path_;
};

TEST_F(MetadataTest, AGuestNeverWritesOverTables) {
  const std::uint64_t table = l2_table();
  const std::uint64_t third = field(table + 2 * 8);
  for (const std::uint64_t target : {std::uint64_t{kRefcountTable}, std::uint64_t{kRefcountBlock},
                                     std::uint64_t{kL1}, table / kCluster}) {
    SCOPED_TRACE(target);
    patch(table + 2 * 8, target * kCluster | kCopied);
    {
      const auto disk = DrivenDisk::open({.path = path_});
      ASSERT_TRUE(disk);
      // Alone, and with its neighbours.
      EXPECT_EQ(disk->write(2 * kCluster + 4096, std::string(4096, 'x')), 0);
      EXPECT_EQ(disk->flush(), 0);
      EXPECT_EQ(disk->write(kCluster, std::string(3 * kCluster, 'y')), 0);
      EXPECT_EQ(disk->range(Operation::discard, 2 * kCluster, kCluster), 0);
      EXPECT_EQ(disk->range(Operation::write_zeroes, 2 * kCluster, kCluster), 0);
      for (int i = 0; i < 3; ++i) EXPECT_EQ(disk->flush(), 0);
      EXPECT_EQ(disk->write(8 * kCluster, std::string(kCluster, 'z')), 0);
    }
    EXPECT_EQ(l2_table(), table);
    EXPECT_EQ(field(kRefcountTable * kCluster), kRefcountBlock * kCluster);
    for (std::uint64_t c = 0; c <= table / kCluster; ++c) {
      EXPECT_EQ(field(kRefcountBlock * kCluster + c * 2) >> 48, 1u) << c;
    }
    const auto disk = DrivenDisk::open({.path = path_});
    ASSERT_TRUE(disk);
    EXPECT_EQ(disk->read(0, kCluster), std::string(kCluster, 'c'));
    EXPECT_EQ(disk->read(2 * kCluster, kCluster), std::string(kCluster, '\0'));
    EXPECT_EQ(disk->read(8 * kCluster, kCluster), std::string(kCluster, 'z'));
  }
  patch(table + 2 * 8, third);
}

// The tables that were made since the image was opened are no less than the first ones.
TEST_F(MetadataTest, AGuestNeverWritesOverNewTables) {
  constexpr std::uint64_t kSpan = kCluster * kCluster / 8;
  const std::uint64_t next = TemporaryDirectory::content(path_).size() / kCluster;
  const std::uint64_t table = l2_table();
  // Where the next L2 table may come to lie.
  for (std::uint64_t i = 0; i < 4; ++i)
    patch(table + (16 + i) * 8, (next + i) * kCluster | kCopied);
  {
    const auto disk = DrivenDisk::open({.path = path_});
    ASSERT_TRUE(disk);
    EXPECT_EQ(disk->write(kSpan, std::string(kCluster, 'n')), 0);
    EXPECT_EQ(disk->flush(), 0);
    EXPECT_EQ(disk->write(16 * kCluster, std::string(kCluster, 'x')), 0);
    EXPECT_EQ(disk->write(17 * kCluster, std::string(kCluster, 'x')), 0);
  }
  EXPECT_NE(cluster((field(kL1 * kCluster + 8) & kOffsetMask) / kCluster),
            std::string(kCluster, 'x'));
}

TEST_F(MetadataTest, TablesThatShareAClusterAreNotWritten) {
  const auto error = [this](bool read_only) {
    const auto disk = open_disk({.path = path_, .read_only = read_only});
    return disk ? "no error" : disk.error().message();
  };
  const std::uint64_t table = l2_table();
  for (const std::uint64_t other :
       {table, kRefcountBlock * kCluster, kRefcountTable * kCluster, kL1 * kCluster}) {
    patch(kL1 * kCluster + 8, other | kCopied);
    EXPECT_NE(error(false).find("two of its tables use the cluster at"), std::string::npos);
    EXPECT_EQ(error(true), "no error");
  }
  patch(kL1 * kCluster + 8, 0);
  EXPECT_EQ(error(false), "no error");
}

// ---- growth

// Who had the lock before may have made the file larger since it was opened.
TEST(Storage, NeverCutsAFileThatGrewMeanwhile) {
  const TemporaryDirectory directory;
  const auto path = directory.file("image", 4096);
  auto file = RawFile::open({.path = path}, RawFile::Content::format);
  ASSERT_TRUE(file);
  std::filesystem::resize_file(path, 32u << 20);
  {
    Storage storage(std::move(*file));
    EXPECT_EQ(storage.size(), 32u << 20);
    EXPECT_EQ(storage.grow(1u << 20), 0);
  }
  EXPECT_EQ(std::filesystem::file_size(path), 32u << 20);
}

class GrowTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_QEMU_IMG();
    path_ = directory_.path() + "/disk";
    const auto made =
        shell("qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 " + path_ + " 64M");
    ASSERT_EQ(made.code, 0) << made.output;
  }
  void expect_checked(int code) const {
    const auto checked = shell("qemu-img check -f qcow2 " + path_);
    EXPECT_EQ(checked.code, code) << checked.output;
  }

  TemporaryDirectory directory_;
  std::string path_;
};

// The file may not grow at any of many sizes, one after the other; each time the rest goes on.
TEST_F(GrowTest, ARefcountTableThatCannotGrowHarmsNothing) {
  struct rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  struct sigaction ignore{}, old{};
  ignore.sa_handler = SIG_IGN;
  ASSERT_EQ(::sigaction(SIGXFSZ, &ignore, &old), 0);
  const std::string text(96u << 10, 'g');
  std::vector<std::uint64_t> written;
  int failures = 0;
  {
    const auto disk = DrivenDisk::open({.path = path_, .io = IoEngine::threads});
    ASSERT_TRUE(disk);
    for (std::uint64_t at = 0; at < 24u << 20; at += text.size()) {
      struct stat status{};
      ASSERT_EQ(::stat(path_.c_str(), &status), 0);
      struct rlimit limit = before;
      limit.rlim_cur = static_cast<rlim_t>(status.st_size);
      ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
      const int error = disk->write(at, text);
      ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
      if (error == 0) {
        written.push_back(at);
        continue;
      }
      ++failures;
      EXPECT_EQ(error, EFBIG);
      ASSERT_EQ(disk->flush(), 0);
      if (failures % 2 == 0) continue;
      ASSERT_EQ(disk->write(at, text), 0);
      written.push_back(at);
    }
    for (const auto at : written) ASSERT_TRUE(disk->read(at, text.size()) == text) << at;
  }
  ASSERT_EQ(::sigaction(SIGXFSZ, &old, nullptr), 0);
  EXPECT_GT(failures, 3);
  const auto ours = check_image(path_);
  ASSERT_TRUE(ours) << ours.error().message();
  EXPECT_EQ(ours->corruptions, 0u);
  const auto disk = DrivenDisk::open({.path = path_});
  ASSERT_TRUE(disk);
  for (const auto at : written) ASSERT_TRUE(disk->read(at, text.size()) == text) << at;
}

// Growth that fails half-way: the place of the new table is taken by what the image says is an L2
// table.
TEST_F(GrowTest, ATableThatDidNotGrowIsNotWrittenBehindItsEnd) {
  const auto content = TemporaryDirectory::content(path_);
  const auto l1 = load<std::uint64_t>(&content[40]);
  const auto entries = load<std::uint32_t>(&content[36]);
  const auto table = load<std::uint64_t>(&content[kRefcountTableField]);
  const auto table_clusters = load<std::uint32_t>(&content[kRefcountTableField + 8]);
  const std::uint64_t last = l1 + (entries - 1) * 8;
  const std::uint64_t counted = table_clusters * (512u / 8) * (512u / 8);
  const auto patch = [this](std::uint64_t at, std::uint64_t value) {
    std::byte bytes[8];
    store(bytes, value);
    const auto fd = open_file(path_, O_RDWR);
    ASSERT_TRUE(fd);
    ASSERT_TRUE(write_all_at(fd->get(), bytes, at));
  };
  patch(last, (counted + 2) * 512);
  {
    const auto disk = DrivenDisk::open({.path = path_});
    ASSERT_TRUE(disk);
    int error = 0;
    for (std::uint64_t at = 0; at < 8u << 20 && error == 0; at += 64u << 10) {
      error = disk->write(at, std::string(64u << 10, 'g'));
    }
    EXPECT_EQ(error, EIO);
    EXPECT_NE(disk->write(16u << 20, std::string(64u << 10, 'h')), 0);
    (void)disk->flush();
  }
  patch(last, 0);
  // Leaks at most: the write that failed half-way.
  const auto checked = check_image(path_, Repair::leaks);
  ASSERT_TRUE(checked) << checked.error().message();
  EXPECT_EQ(checked->corruptions, 0u) << checked->messages.front();
  expect_checked(0);
  EXPECT_EQ(load<std::uint64_t>(&TemporaryDirectory::content(path_)[kRefcountTableField]), table);
}

}  // namespace
}  // namespace vmm::disk::qcow2
