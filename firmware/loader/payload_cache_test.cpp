#include "firmware/loader/payload_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "firmware/loader/synthetic_kernel.h"

namespace vmm::loader {
namespace {

namespace fs = std::filesystem;
using testing::Bytes;

class PayloadCacheTest : public ::testing::Test {
 protected:
  FileIdentity identity(std::uint64_t inode) const { return {1, inode, 1000, 5, 6}; }

  testing::TemporaryDirectory directory_;
  PayloadCache cache_{directory_.path() + "/a/kernels"};
  Bytes payload_ = testing::make_elf({});
  Bytes header_ = Bytes(120, std::byte{3});
};

TEST_F(PayloadCacheTest, KeepsWhatWasStored) {
  EXPECT_FALSE(cache_.find(identity(1)));
  ASSERT_TRUE(cache_.store(identity(1), header_, payload_));
  const auto entry = cache_.find(identity(1));
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->payload_size, payload_.size());
  EXPECT_EQ(entry->setup_header, header_);
  Bytes read(payload_.size());
  ASSERT_TRUE(read_exact_at(entry->file.get(), read, 0));
  EXPECT_EQ(read, payload_);

  struct stat status{};
  ASSERT_EQ(::stat((directory_.path() + "/a/kernels").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
  ASSERT_EQ(::stat(cache_.path_of(identity(1)).c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(PayloadCacheTest, AnotherIdentityIsAnotherKernel) {
  ASSERT_TRUE(cache_.store(identity(1), header_, payload_));
  EXPECT_FALSE(cache_.find(identity(2)));
  FileIdentity touched = identity(1);
  touched.modified_ns += 1;
  EXPECT_FALSE(cache_.find(touched));
  // Even under the same name: the identity in the file is compared.
  fs::copy_file(cache_.path_of(identity(1)), cache_.path_of(identity(2)));
  EXPECT_FALSE(cache_.find(identity(2)));
}

TEST_F(PayloadCacheTest, NothingIsKeptOfAFileWithoutAName) {
  struct stat status{.st_ino = 7, .st_nlink = 1, .st_size = 9};
  EXPECT_EQ(FileIdentity::of(status).inode, 7u);
  status.st_nlink = 0;
  EXPECT_FALSE(cache_.store(FileIdentity::of(status), header_, payload_));
  EXPECT_FALSE(cache_.find(FileIdentity::of(status)));
  EXPECT_EQ(FileIdentity::of(status).size, 9u);
}

TEST_F(PayloadCacheTest, ACutOffFileIsNotUsed) {
  ASSERT_TRUE(cache_.store(identity(1), header_, payload_));
  const std::string path = cache_.path_of(identity(1));
  const auto size = fs::file_size(path);
  for (std::uintmax_t cut : {size - 1, size - 248, size / 2, std::uintmax_t{0}}) {
    fs::resize_file(path, cut);
    EXPECT_FALSE(cache_.find(identity(1))) << cut;
  }
  fs::resize_file(path, size);  // zeroes, as some file systems leave them after a crash
  EXPECT_FALSE(cache_.find(identity(1)));
  ASSERT_TRUE(cache_.store(identity(1), header_, payload_));  // and it is replaced
  EXPECT_TRUE(cache_.find(identity(1)));
}

// A byte anywhere in it, as a disk or a crash of the host leaves them.
TEST_F(PayloadCacheTest, ADamagedFileIsNotUsed) {
  const Bytes large(100'001, std::byte{7});
  ASSERT_TRUE(cache_.store(identity(1), header_, large));
  const std::string path = cache_.path_of(identity(1));
  EXPECT_TRUE(cache_.find(identity(1)));
  for (const std::uint64_t at : {0u, 1u, 31u, 50'000u, 99'999u, 100'000u, 100'020u}) {
    const auto file = std::move(open_file(path, O_RDWR).value());
    std::byte right{};
    ASSERT_TRUE(read_exact_at(file.get(), std::span(&right, 1), at));
    const std::byte wrong = right ^ std::byte{0x80};
    ASSERT_TRUE(write_all_at(file.get(), std::span(&wrong, 1), at));
    EXPECT_FALSE(cache_.find(identity(1))) << at;
    EXPECT_FALSE(cache_.find(identity(1))) << at << ", and it is not marked as whole";
    ASSERT_TRUE(write_all_at(file.get(), std::span(&right, 1), at));
    EXPECT_TRUE(cache_.find(identity(1))) << at;
  }
  ASSERT_TRUE(cache_.store(identity(2), {}, {}));
  EXPECT_TRUE(cache_.find(identity(2)));
}

// The whole is read once, not at each start.
TEST_F(PayloadCacheTest, WhatWasComparedIsMarked) {
  ASSERT_TRUE(cache_.store(identity(1), header_, payload_));
  const std::string path = cache_.path_of(identity(1));
  struct stat stored{}, touched{}, found{};
  ASSERT_EQ(::stat(path.c_str(), &stored), 0);
  fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(24));
  ASSERT_EQ(::stat(path.c_str(), &touched), 0);
  ASSERT_TRUE(cache_.find(identity(1)));
  ASSERT_EQ(::stat(path.c_str(), &found), 0);
  EXPECT_EQ(found.st_mtim.tv_nsec, stored.st_mtim.tv_nsec);
  EXPECT_EQ(found.st_mtim.tv_sec, touched.st_mtim.tv_sec) << "its age stays";
}

TEST_F(PayloadCacheTest, OnlyPrivateFilesAreTrusted) {
  ASSERT_TRUE(cache_.store(identity(1), header_, payload_));
  const std::string path = cache_.path_of(identity(1));
  ::chmod(path.c_str(), 0620);
  EXPECT_FALSE(cache_.find(identity(1)));
  ::chmod(path.c_str(), 0602);
  EXPECT_FALSE(cache_.find(identity(1)));
  ::chmod(path.c_str(), 0644);
  EXPECT_TRUE(cache_.find(identity(1)));
  fs::rename(path, path + ".moved");
  fs::create_symlink(path + ".moved", path);
  EXPECT_FALSE(cache_.find(identity(1)));

  ::chmod((directory_.path() + "/a/kernels").c_str(), 0777);
  EXPECT_FALSE(cache_.store(identity(3), header_, payload_));
}

TEST_F(PayloadCacheTest, StaysBounded) {
  for (std::uint64_t i = 1; i <= PayloadCache::kMaxEntries + 4; ++i) {
    ASSERT_TRUE(cache_.store(identity(i), header_, payload_));
    const auto time = fs::file_time_type::clock::now() - std::chrono::minutes(100 - i);
    fs::last_write_time(cache_.path_of(identity(i)), time);
  }
  ASSERT_TRUE(cache_.store(identity(100), header_, payload_));
  const auto files = std::distance(fs::directory_iterator(directory_.path() + "/a/kernels"), {});
  EXPECT_EQ(static_cast<std::size_t>(files), PayloadCache::kMaxEntries);
  EXPECT_FALSE(cache_.find(identity(1)));
  EXPECT_TRUE(cache_.find(identity(PayloadCache::kMaxEntries + 4)));
  EXPECT_TRUE(cache_.find(identity(100)));
}

TEST_F(PayloadCacheTest, AbandonedFilesAreRemoved) {
  ASSERT_TRUE(cache_.store(identity(1), header_, payload_));
  const std::string old = directory_.path() + "/a/kernels/.new-old";
  const std::string fresh = directory_.path() + "/a/kernels/.new-fresh";
  std::ofstream(old) << "x";
  std::ofstream(fresh) << "x";
  fs::last_write_time(old, fs::file_time_type::clock::now() - std::chrono::hours(2));
  ASSERT_TRUE(cache_.store(identity(2), header_, payload_));
  EXPECT_FALSE(fs::exists(old));
  EXPECT_TRUE(fs::exists(fresh));
}

TEST_F(PayloadCacheTest, NoDirectoryIsNoError) {
  const PayloadCache none("");
  EXPECT_FALSE(none.find(identity(1)));
  EXPECT_FALSE(none.store(identity(1), header_, payload_));
  const PayloadCache impossible(directory_.file("file", header_) + "/kernels");
  EXPECT_FALSE(impossible.find(identity(1)));
  EXPECT_FALSE(impossible.store(identity(1), header_, payload_));
}

TEST(PayloadCache, IsWhereTheUserKeepsCaches) {
  ::setenv("XDG_CACHE_HOME", "/x/cache", 1);
  EXPECT_TRUE(PayloadCache::of_user("kernels").path_of({}).starts_with("/x/cache/vmm/kernels/"));
  ::setenv("XDG_CACHE_HOME", "relative", 1);
  ::setenv("HOME", "/x/home", 1);
  EXPECT_TRUE(
      PayloadCache::of_user("kernels").path_of({}).starts_with("/x/home/.cache/vmm/kernels/"));
}

}  // namespace
}  // namespace vmm::loader
