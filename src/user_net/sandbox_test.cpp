// Each test confines a child, which cannot be undone.
#include "src/user_net/sandbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <functional>
#include <string>

#include "src/base/unique_fd.h"

namespace vmm::user_net {
namespace {

constexpr int kNoLandlockHere = 77;

// What `body` returns, in a child.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool opens(const char* path, int flags) {
  return static_cast<bool>(UniqueFd(::open(path, flags | O_CLOEXEC, 0600)));
}

class SandboxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sandbox-test-XXXXXX";
    file_ = UniqueFd(::mkstemp(name));
    path_ = name;
    ASSERT_EQ(::write(file_.get(), "kept", 4), 4);
  }
  void TearDown() override { ::unlink(path_.c_str()); }
  std::string path_;
  UniqueFd file_;
};

TEST_F(SandboxTest, NoFileIsOpenedInAnyWay) {
  EXPECT_EQ(in_child([&] {
              if (!confine()) return 1;
              const auto* path = path_.c_str();
              for (const int flags :
                   {O_RDONLY, O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_RDONLY | O_CREAT, O_PATH}) {
                if (opens(path, flags)) return 2;
              }
              if (opens("/etc/resolv.conf", O_RDONLY) || opens("/run", O_RDONLY)) return 3;
              return ::truncate(path, 0) == 0 || ::unlink(path) == 0 ? 4 : 0;
            }),
            0);
  struct stat now{};
  ASSERT_EQ(::stat(path_.c_str(), &now), 0);
  EXPECT_EQ(now.st_size, 4);
}

TEST_F(SandboxTest, SocketsOfTheInternetButNoneThatListens) {
  EXPECT_EQ(in_child([] {
              if (!confine()) return 1;
              const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
              if (!fd) return 2;
              if (::listen(fd.get(), 1) == 0) return 3;
              sockaddr_in address{};
              address.sin_family = AF_INET;
              address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
              if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
                return 4;
              }
              // Refused by the host, not by the filter.
              address.sin_port = htons(1);
              const UniqueFd other(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
              (void)::connect(other.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
              if (errno != ECONNREFUSED) return 5;
              return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) ? 6 : 0;
            }),
            0);
}

// Landlock alone, as if the filter had a hole.
TEST_F(SandboxTest, LandlockRefusesAllOfIt) {
  const int code = in_child([&] {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return 1;
    const auto landlock = restrict_files();
    if (!landlock) return 2;
    if (*landlock == Landlock::none) return kNoLandlockHere;
    const auto* path = path_.c_str();
    for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_TRUNC}) {
      if (opens(path, flags) || errno != EACCES) return 3;
    }
    if (opens((path_ + "x").c_str(), O_WRONLY | O_CREAT)) return 4;
    if (opens("/etc/passwd", O_RDONLY) || opens("/run", O_RDONLY | O_DIRECTORY)) return 5;
    return ::unlink(path) == 0 ? 6 : 0;
  });
  if (code == kNoLandlockHere) GTEST_SKIP() << "this kernel has no Landlock";
  EXPECT_EQ(code, 0);
  struct stat now{};
  ASSERT_EQ(::stat(path_.c_str(), &now), 0);
  EXPECT_EQ(now.st_size, 4);
}

// What came with later versions of its ABI: 3 truncate(2), 4 ports, 6 abstract Unix sockets.
TEST_F(SandboxTest, LandlockAsFarAsTheKernelKnowsIt) {
  const long abi = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, 1);
  if (abi < 3) GTEST_SKIP() << "this kernel's Landlock is older: ABI " << abi;
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  const auto text = "vmm-sandbox-test-" + std::to_string(::getpid());
  text.copy(&name.sun_path[1], text.size());
  const auto* target = reinterpret_cast<const sockaddr*>(&name);
  ASSERT_EQ(::bind(listener.get(), target, sizeof name), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  EXPECT_EQ(in_child([&] {
              if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || !restrict_files()) return 1;
              if (::truncate(path_.c_str(), 0) == 0) return 2;
              const UniqueFd tcp(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
              sockaddr_in any{};
              any.sin_family = AF_INET;
              const auto* address = reinterpret_cast<const sockaddr*>(&any);
              if (abi >= 4 && ::bind(tcp.get(), address, sizeof any) == 0) return 3;
              const UniqueFd unix_socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
              if (abi >= 6 && ::connect(unix_socket.get(), target, sizeof name) == 0) return 4;
              return abi >= 6 && ::kill(::getppid(), 0) == 0 ? 5 : 0;
            }),
            0);
}

}  // namespace
}  // namespace vmm::user_net
