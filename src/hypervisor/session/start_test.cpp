// What keeps a machine from starting.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "src/base/unix_socket.h"
#include "src/hypervisor/kvm/kvm.h"
#include "src/hypervisor/machine/kernel_for_test.h"
#include "src/hypervisor/session/session.h"

namespace vmm {
namespace {

class StartTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto kvm = kvm::Kvm::open(); !kvm) GTEST_SKIP() << kvm.error().message();
    std::string pattern = "/tmp/vmm-start-test-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    test::write_kernel(folder_ + "/kernel", {0xf4});  // hlt
    ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, nullptr, &signals_), 0);
  }
  void TearDown() override {
    if (folder_.empty()) return;
    ::pthread_sigmask(SIG_SETMASK, &signals_, nullptr);  // a session blocks some
    std::filesystem::remove_all(folder_);
  }
  std::string path(const char* name) const { return fmt::format("{}/{}", folder_, name); }

  std::string folder_;
  sigset_t signals_{};
};

TEST_F(StartTest, AllThatIsInUseIsSaidAtOnce) {
  MachineConfig config;
  config.kernel = path("kernel");
  config.memory = 64u << 20;
  config.control = path("control");
  config.serial = {.kind = chardev::Kind::socket, .path = path("console")};
  config.vsock = virtio::VsockConfig{.path = path("vsock")};
  config.disks = {{.path = path("no disk")}};
  std::vector<UnixListener> others;
  for (const char* name : {"control", "console", "vsock"}) {
    others.push_back(std::move(UnixListener::create(path(name)).value()));
  }
  const auto session = Session::create(config, {});
  ASSERT_FALSE(session);
  const auto& text = session.error().message();
  for (const char* name : {"control", "console", "vsock", "no disk"}) {
    EXPECT_TRUE(text.contains(path(name))) << name << " in: " << text;
  }
  EXPECT_EQ(std::ranges::count(text, ';'), 3) << text;
  // When one is left, its sentence stands alone.
  others.clear();
  config.disks.clear();
  const auto last = UnixListener::create(path("control"));
  const auto again = Session::create(config, {});
  ASSERT_FALSE(again);
  EXPECT_TRUE(again.error().message().starts_with("control socket: "));
  EXPECT_FALSE(again.error().message().contains(';')) << again.error().message();
  for (const char* name : {"console", "vsock"}) {
    EXPECT_FALSE(std::filesystem::exists(path(name))) << name << " was made in vain, and is left";
  }
}

}  // namespace
}  // namespace vmm
