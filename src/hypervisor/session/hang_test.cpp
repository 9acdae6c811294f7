// A vCPU or a device that does not stop ends the process, with a sentence, its own exit code, and
// no socket left. Each test does that in a process of its own.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <thread>

#include "src/hypervisor/kvm/kvm.h"
#include "src/hypervisor/machine/kernel_for_test.h"
#include "src/hypervisor/session/session.h"

namespace vmm {
namespace {

constexpr auto kPatience = std::chrono::milliseconds(1000);

// Who waits for that waits for ever; for `slow`, half of the patience.
class HangsAt : public Waits {
 public:
  HangsAt(std::string what, std::string slow) : what_(std::move(what)), slow_(std::move(slow)) {}

 private:
  void begun(const std::string& what) override {
    if (what == slow_) std::this_thread::sleep_for(kPatience / 2);
    if (what != what_) return;
    std::unique_lock lock(mutex_);
    never_.wait(lock, [] { return false; });
  }
  const std::string what_;
  const std::string slow_;
  std::mutex mutex_;
  std::condition_variable never_;
};

class HangTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto kvm = kvm::Kvm::open(); !kvm) GTEST_SKIP() << kvm.error().message();
    std::string pattern = "/tmp/vmm-hang-test-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    test::write_kernel(folder_ + "/kernel", {0xf4});  // hlt
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  bool exists(const char* name) const {
    struct stat status{};
    return ::lstat((folder_ + name).c_str(), &status) == 0;
  }

  // The exit code of a machine that is ended at once, if it ends.
  int run(const std::string& hangs, const std::string& slow = {}) const {
    MachineConfig config;
    config.kernel = folder_ + "/kernel";
    config.memory = 64u << 20;
    config.control = folder_ + "/control";
    config.vsock = virtio::VsockConfig{.path = folder_ + "/vsock"};
    config.serial.kind = chardev::Kind::none;
    Session::Start start;
    start.patience = kPatience;
    start.waits = std::make_shared<HangsAt>(hangs, slow);
    auto session = Session::create(config, std::move(start));
    if (!session) return 100;
    if (!exists("/control") || !exists("/vsock")) return 101;
    // Asked twice, it ends without the guest.
    ::kill(::getpid(), SIGTERM);
    ::kill(::getpid(), SIGINT);
    return (*session)->run();
  }

  std::string folder_;
};

TEST_F(HangTest, AVcpu) {
  EXPECT_EXIT(std::exit(run("vCPU 0")), ::testing::ExitedWithCode(kExitInternal),
              "vmm: vCPU 0 does not stop within 1 s");
  EXPECT_FALSE(exists("/control"));
  EXPECT_FALSE(exists("/vsock"));
}

TEST_F(HangTest, ADevice) {
  EXPECT_EXIT(std::exit(run("device vsock")), ::testing::ExitedWithCode(kExitInternal),
              "vmm: device vsock does not stop within 1 s");
  EXPECT_FALSE(exists("/control"));
  EXPECT_FALSE(exists("/vsock"));
}

// It is late as a whole before that device is: the device is named all the same.
TEST_F(HangTest, ADeviceBehindASlowVcpu) {
  EXPECT_EXIT(std::exit(run("device vsock", "vCPU 0")), ::testing::ExitedWithCode(kExitInternal),
              "vmm: device vsock does not stop within 1 s");
}

// What stops is not taken for it. (Where KVM runs no guest, it ends for that reason.)
TEST_F(HangTest, NothingThatStopsInTime) {
  EXPECT_EXIT(
      std::exit(run("nothing")),
      [](int status) {
        const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        return code == kExitKilled || code == kExitFailed;
      },
      "");
  EXPECT_FALSE(exists("/vsock"));
}

}  // namespace
}  // namespace vmm
