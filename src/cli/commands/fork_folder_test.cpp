#include "src/cli/commands/fork_folder.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <optional>

namespace vmm::cli {
namespace {

namespace fs = std::filesystem;

class ForkFolderTest : public ::testing::Test {
 protected:
  ForkFolderTest() {
    EXPECT_NE(::mkdtemp(root_), nullptr);
    path_ = fmt::format("{}/seeded.forks", root_);
  }
  ~ForkFolderTest() override { fs::remove_all(root_); }
  void write(const std::string& name) const { std::ofstream(path_ + "/" + name) << "text"; }
  // As a fork that was killed left it.
  void leave_a_dead_one() const {
    fs::create_directory(path_);
    for (const char* name : {"lock", "1.control", "1.console", "1.log", "2.console.1"}) write(name);
  }
  std::string why_not() const {
    const auto folder = ForkFolder::create(path_);
    return folder ? "" : folder.error().message();
  }

  char root_[32] = "/tmp/vmm-forks-XXXXXX";
  std::string path_;
};

TEST_F(ForkFolderTest, IsGoneUnlessItWasFinished) {
  {
    const auto folder = ForkFolder::create(path_);
    ASSERT_TRUE(folder) << folder.error().message();
    EXPECT_TRUE(fs::exists(path_ + "/lock"));
    write("1.log");
  }
  EXPECT_FALSE(fs::exists(path_));
  {
    auto folder = ForkFolder::create(path_);
    ASSERT_TRUE(folder) << folder.error().message();
    write("1.control");
    folder->finish();
  }
  EXPECT_TRUE(fs::exists(path_ + "/1.control"));
  EXPECT_FALSE(fs::exists(path_ + "/lock"));
  EXPECT_NE(why_not().find("it exists"), std::string::npos) << "its machines' consoles are there";
}

TEST_F(ForkFolderTest, WhatADeadForkLeftIsTakenOver) {
  leave_a_dead_one();
  const auto folder = ForkFolder::create(path_);
  ASSERT_TRUE(folder) << folder.error().message();
  EXPECT_FALSE(fs::exists(path_ + "/1.control"));
  EXPECT_FALSE(fs::exists(path_ + "/2.console.1"));
  EXPECT_NE(why_not().find("still runs there"), std::string::npos);
}

TEST_F(ForkFolderTest, OneThatWasKilledAtOnceIsTakenOver) {
  fs::create_directory(path_);
  EXPECT_EQ(why_not(), "");
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(ForkFolderTest, AMachineThatWasStartedHoldsIt) {
  UniqueFd inherited;
  {
    auto folder = ForkFolder::create(path_);
    ASSERT_TRUE(folder) << folder.error().message();
    inherited = UniqueFd(::dup(folder->lock()));
    // Killed: no destructor runs, only its own descriptor goes.
    fs::rename(path_, path_ + ".kept");
  }
  fs::rename(path_ + ".kept", path_);
  EXPECT_NE(why_not().find("still runs there"), std::string::npos);
  inherited.reset();
  EXPECT_EQ(why_not(), "");
}

TEST_F(ForkFolderTest, WhatSomebodyElsePutThereStays) {
  leave_a_dead_one();
  write("notes.txt");
  EXPECT_NE(why_not().find("it exists"), std::string::npos);
  EXPECT_TRUE(fs::exists(path_ + "/1.log"));
  EXPECT_TRUE(fs::exists(path_ + "/notes.txt"));
  fs::remove(path_ + "/notes.txt");
  fs::rename(path_, path_ + ".real");
  fs::create_symlink(path_ + ".real", path_);
  EXPECT_NE(why_not().find("it exists"), std::string::npos) << "a link to one";
  EXPECT_TRUE(fs::exists(path_ + ".real/1.log"));
  fs::remove(path_);
  fs::rename(path_ + ".real", path_);
  fs::rename(path_ + "/lock", path_ + "/1.log");
  EXPECT_NE(why_not().find("it exists"), std::string::npos) << "without a lock";
}

}  // namespace
}  // namespace vmm::cli
