#include "src/hypervisor/session/saver.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "src/base/progress_for_test.h"
#include "src/hypervisor/machine/kernel_for_test.h"
#include "src/hypervisor/snapshot/reader.h"

namespace vmm {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kWritten = 2u << 20;  // of the guest's memory

// A machine with a disk, that does not run.
class SaverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto kvm = kvm::Kvm::open(); !kvm) GTEST_SKIP() << kvm.error().message();
    std::string pattern = "/tmp/vmm-saver-test-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    test::write_kernel(folder_ + "/kernel", {0xf4});
    std::ofstream(folder_ + "/disk") << std::string(1u << 20, 'd');
    auto& config = config_;
    config.kernel = folder_ + "/kernel";
    config.memory = 64u << 20;
    config.disks.push_back({.path = folder_ + "/disk"});
    boot_ = std::move(*snapshot::open_boot_files(config.kernel, ""));
    auto machine = Machine::create(config, {.on_end = [](End, std::string) {}});
    ASSERT_TRUE(machine) << machine.error().message();
    machine_ = std::move(*machine);
    std::memset(machine_->memory().slice(GuestAddress{32u << 20}, kWritten)->data(), 'm', kWritten);
  }
  void TearDown() override {
    machine_.reset();
    if (!folder_.empty()) fs::remove_all(folder_);
  }
  Result<protocol::Saved> save(const SaveRequest& request, Progress& progress) {
    TRY(saver_.begin(*machine_, request, progress));
    return saver_.complete(progress);
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      names.push_back(entry.path().filename());
    }
    std::ranges::sort(names);
    return names;
  }

  std::string folder_;
  MachineConfig config_;
  std::unique_ptr<Machine> machine_;
  snapshot::BootFiles boot_;
  Saver saver_{snapshot::MachineTexts{.config = "{}", .attachments = {}}, boot_};
};

TEST_F(SaverTest, CancelledAtAnyPointItLeavesNothing) {
  for (const bool live : {false, true}) {
    const SaveRequest request{.directory = folder_ + (live ? "/live" : "/still"), .live = live};
    const auto before = files();
    unsigned at = 0;
    for (;; at += 5) {
      test::CancelsAt progress(at);
      const auto saved = save(request, progress);
      if (saved) {
        EXPECT_EQ(saved->directory, request.directory);
        EXPECT_EQ(saved->live, live);
        EXPECT_GE(saved->memory_bytes, kWritten);
        EXPECT_GE(saved->disk_bytes, 1u << 20);
        break;
      }
      EXPECT_EQ(files(), before) << at << ": " << saved.error().message();
      ASSERT_LT(at, 10'000u);
    }
    EXPECT_GT(at, 20u) << "it is heard often";
    // It can be read, and the next one builds on it.
    ASSERT_TRUE(snapshot::Reader::open(request.directory));
    const auto next =
        save({.directory = request.directory + "2", .parent = request.directory}, Progress::none());
    EXPECT_TRUE(next || next.error().message().contains("not known")) << next.error().message();
  }
}

// Over the snapshot's copy of the disk that was in the slot then, a layer would show that one.
TEST_F(SaverTest, ADiskThatWasAttachedAtTheRestoreIsCopiedWhole) {
  const auto first = folder_ + "/first";
  ASSERT_TRUE(save({.directory = first}, Progress::none()));
  std::ofstream(folder_ + "/disk") << std::string(1u << 20, 'o');
  for (const bool attached : {true, false}) {
    machine_.reset();
    auto machine = Machine::create(config_, {.on_end = [](End, std::string) {}});
    ASSERT_TRUE(machine) << machine.error().message();
    machine_ = std::move(*machine);
    saver_.restored_from(*machine_, snapshot::Reader::open(first).value()->digest(),
                         attached ? std::set<std::string>{"blk0"} : std::set<std::string>());
    const auto next = folder_ + (attached ? "/attached" : "/restored");
    const auto saved = save({.directory = next, .parent = first}, Progress::none());
    ASSERT_TRUE(saved) << saved.error().message();
    const auto reader = snapshot::Reader::open(next);
    ASSERT_TRUE(reader);
    const auto& entry = (*reader)->manifest().disks.at(0);
    EXPECT_EQ(entry.layer, !attached);
    if (!attached) continue;
    std::string content(entry.size, 0);
    std::ifstream((*reader)->disk_path(entry)).read(content.data(), ssize_t(content.size()));
    EXPECT_EQ(content, std::string(1u << 20, 'o'));
  }
}

TEST_F(SaverTest, WhatIsGivenUpLeavesNothing) {
  const auto before = files();
  ASSERT_TRUE(
      saver_.begin(*machine_, {.directory = folder_ + "/a", .live = true}, Progress::none()));
  EXPECT_NE(files(), before);
  saver_.give_up();
  EXPECT_EQ(files(), before);
}

}  // namespace
}  // namespace vmm
