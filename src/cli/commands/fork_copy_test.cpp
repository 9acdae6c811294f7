#include "src/cli/commands/fork_copy.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <thread>

namespace vmm::cli {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

class ForkCopyTest : public ::testing::Test {
 protected:
  ForkCopyTest() { EXPECT_NE(::mkdtemp(root_), nullptr); }
  ~ForkCopyTest() override { fs::remove_all(root_); }
  // A machine that does this instead.
  Result<ForkCopy> start(const std::string& script) const {
    const auto program = fmt::format("{}/vmm", root_);
    std::ofstream(program) << "#!/bin/sh\n" << script << "\n";
    fs::permissions(program, fs::perms::owner_all);
    return ForkCopy::start(fmt::format("{}/7", root_), {"--restore", "/snapshots/a"}, {0}, program);
  }
  std::string why_not(const std::string& script,
                      milliseconds patience = milliseconds(20'000)) const {
    auto copy = start(script);
    EXPECT_TRUE(copy) << copy.error().message();
    const auto ready = copy->wait_ready(Progress::none(), patience);
    return ready ? "" : ready.error().message();
  }

  char root_[32] = "/tmp/vmm-copies-XXXXXX";
};

TEST_F(ForkCopyTest, IsToldWhatItIsAndStays) {
  auto copy = start("echo \"$@\"; echo 1 >&3; exec sleep 60");
  ASSERT_TRUE(copy) << copy.error().message();
  ASSERT_TRUE(copy->wait_ready(Progress::none()));
  EXPECT_EQ(
      read_text_file(fmt::format("{}/7.log", root_)).value(),
      fmt::format("--restore /snapshots/a --control {0}/7.control --serial file:{0}/7.console "
                  "--name 7 --ready-fd 3\n",
                  root_));
  EXPECT_EQ(copy->control(), fmt::format("{}/7.control", root_));
  const pid_t process = copy->leave();
  copy = fail("let go");
  EXPECT_EQ(::kill(process, SIGKILL), 0);
  EXPECT_EQ(::waitpid(process, nullptr, 0), process);
}

TEST_F(ForkCopyTest, ThatFailsIsQuoted) {
  EXPECT_EQ(why_not("echo 'a warning'; echo 'vmm: the port 80 is taken' >&2; exit 1"),
            "a copy does not start: the port 80 is taken");
  // Said when its pipe is closed already.
  EXPECT_EQ(why_not("exec 3>&-; echo 'vmm: late' >&2; exit 1"), "a copy does not start: late");
}

TEST_F(ForkCopyTest, ThatDiesWithoutAWord) {
  EXPECT_EQ(why_not("exit 3"), "a copy does not start: it ended with code 3");
  EXPECT_EQ(why_not("kill -9 $$"), "a copy does not start: it was ended by signal 9");
}

TEST_F(ForkCopyTest, ThatHangsIsEnded) {
  auto copy = start("exec sleep 60");
  ASSERT_TRUE(copy);
  const auto ready = copy->wait_ready(Progress::none(), milliseconds(50));
  ASSERT_FALSE(ready);
  EXPECT_EQ(ready.error().message(), "a copy does not start: it is not ready after 1 s");
}

TEST_F(ForkCopyTest, IsNotWaitedForWhenTheWorkIsCancelled) {
  auto copy = start("exec sleep 60");
  ASSERT_TRUE(copy);
  JobProgress work;
  std::jthread person([&] { work.cancel(); });
  const auto ready = copy->wait_ready(work, std::chrono::hours(1));
  ASSERT_FALSE(ready);
  EXPECT_EQ(ready.error().code(), kCancelled);
  const pid_t process = copy->leave();
  EXPECT_EQ(::kill(process, SIGKILL), 0) << "it lasts as long as its object";
  EXPECT_EQ(::waitpid(process, nullptr, 0), process);
}

TEST_F(ForkCopyTest, ThatCannotBeStarted) {
  const auto copy = ForkCopy::start(fmt::format("{}/7", root_), {}, {0}, "/no/such/program");
  ASSERT_FALSE(copy);
  EXPECT_EQ(copy.error().message(),
            "cannot start a copy of the machine: cannot start '/no/such/program': No such file or "
            "directory");
  EXPECT_FALSE(ForkCopy::start("/no/such/folder/7", {}, {0}));
}

}  // namespace
}  // namespace vmm::cli
