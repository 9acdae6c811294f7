#include "src/base/unix_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <vector>

namespace vmm {
namespace {

namespace fs = std::filesystem;

class UnixSocketTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(::mkdtemp(directory_), nullptr); }
  void TearDown() override { fs::remove_all(directory_); }
  std::string path(const std::string& name) const { return fmt::format("{}/{}", directory_, name); }
  // A socket whose process died.
  void leave(const std::string& at) const {
    auto listener = std::move(UnixListener::create(path("left")).value());
    fs::rename(path("left"), at);
  }
  std::size_t files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(directory_), {}));
  }
  char directory_[32] = "/tmp/vmm-socket-XXXXXX";
};

TEST_F(UnixSocketTest, IsForItsUserAloneWhateverTheUmask) {
  for (const mode_t mask : {mode_t{0}, mode_t{022}, mode_t{077}}) {
    const mode_t old = ::umask(mask);
    const auto listener = UnixListener::create(path("socket"));
    ::umask(old);
    ASSERT_TRUE(listener);
    struct stat status{};
    ASSERT_EQ(::stat(path("socket").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u) << mask;
    const auto client = connect_unix(path("socket"));
    ASSERT_TRUE(client);
    EXPECT_TRUE(listener->accept());
  }
  EXPECT_EQ(files(), 0u);
}

// The umask is the process's: files that other threads make keep their mode.
TEST_F(UnixSocketTest, LeavesTheUmaskAlone) {
  const mode_t old = ::umask(022);
  std::atomic<bool> done = false;
  std::thread other([&] {
    while (!done) {
      const UniqueFd file(::open(path("file").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
      struct stat status{};
      ASSERT_EQ(::fstat(file.get(), &status), 0);
      ASSERT_EQ(status.st_mode & 0777, 0644u);
      ::unlink(path("file").c_str());
    }
  });
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(UnixListener::create(path("socket")));
  done = true;
  other.join();
  ::umask(old);
}

TEST_F(UnixSocketTest, ReplacesWhatIsStaleAndNothingElse) {
  leave(path("socket"));
  {
    const auto first = UnixListener::create(path("socket"));
    ASSERT_TRUE(first) << first.error().message();
    const auto second = UnixListener::create(path("socket"));
    ASSERT_FALSE(second);
    EXPECT_NE(second.error().message().find("in use"), std::string::npos);
    EXPECT_TRUE(connect_unix(path("socket")));
  }
  std::ofstream(path("file")) << "text";
  fs::create_symlink(path("none"), path("link"));
  for (const char* name : {"file", "link"}) {
    const auto refused = UnixListener::create(path(name));
    ASSERT_FALSE(refused) << name;
    EXPECT_NE(refused.error().message().find("is not a socket"), std::string::npos);
  }
  EXPECT_EQ(fs::file_size(path("file")), 4u);
  EXPECT_FALSE(UnixListener::create(path("none/socket")));
  EXPECT_FALSE(UnixListener::create(""));
  EXPECT_EQ(files(), 2u) << "nothing is left of those that failed";
}

// unix(7) has room for 107 bytes; paths of 106 to 108, and such as a deep home has.
TEST_F(UnixSocketTest, APathMayBeLong) {
  const std::string near = path(std::string(80, 'd'));
  const std::string deep = path(std::string(200, 'd') + "/" + std::string(200, 'e'));
  const std::string name(UnixAddress::kMaxName, 's');
  std::vector<std::string> paths = {near + "/s", deep + "/s", deep + "/" + name};
  for (const auto size : {106u, 107u, 108u}) {
    paths.push_back(near + "/" + std::string(size - near.size() - 1, 's'));
  }
  for (const auto& directory : {near, deep}) fs::create_directories(directory);
  for (const auto& long_path : paths) {
    {
      const auto left = UnixListener::create(path("left"));
      fs::rename(path("left"), long_path);  // a socket whose process died
    }
    const auto listener = UnixListener::create(long_path);
    ASSERT_TRUE(listener) << listener.error().message();
    EXPECT_TRUE(connect_unix(long_path));
    EXPECT_FALSE(UnixListener::create(long_path)) << "it is in use";
  }
  for (const auto& directory : {near, deep}) {
    EXPECT_EQ(std::distance(fs::directory_iterator(directory), {}), 0) << directory;
  }
  const auto refused = UnixListener::create(deep + "/" + name + "s");
  ASSERT_FALSE(refused);
  EXPECT_TRUE(
      refused.error().message().ends_with("its last name has 81 bytes, expected at most 80"))
      << refused.error().message();
  EXPECT_FALSE(connect_unix(path("none/" + std::string(100, 's'))));
}

TEST_F(UnixSocketTest, ItsEndLeavesASuccessorAlone) {
  auto first = std::optional(std::move(UnixListener::create(path("socket")).value()));
  fs::remove(path("socket"));  // by hand
  const auto second = UnixListener::create(path("socket"));
  ASSERT_TRUE(second);
  first.reset();
  EXPECT_TRUE(connect_unix(path("socket")));
  auto moved = std::optional(std::move(UnixListener::create(path("other")).value()));
  {
    const UnixListener owner(std::move(*moved));
    moved.reset();
    EXPECT_TRUE(connect_unix(path("other"))) << "the empty one owns nothing";
  }
  EXPECT_FALSE(fs::exists(path("other")));
}

// Of those that find a stale socket at the same moment, one gets the name, and keeps it.
TEST_F(UnixSocketTest, OneOfManySucceeds) {
  constexpr int kThreads = 4;
  for (int round = 0; round < 300; ++round) {
    if (round % 2 == 0) leave(path("socket"));
    std::vector<std::optional<UnixListener>> listeners(kThreads);
    std::barrier together(kThreads);
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        together.arrive_and_wait();
        auto listener = UnixListener::create(path("socket"));
        if (listener) listeners[static_cast<std::size_t>(i)].emplace(std::move(*listener));
      });
    }
    for (auto& thread : threads) thread.join();
    const auto client = connect_unix(path("socket"));
    ASSERT_TRUE(client) << client.error().message();
    int succeeded = 0;
    for (const auto& listener : listeners) {
      if (!listener) continue;
      ++succeeded;
      EXPECT_TRUE(listener->accept()) << "the one that has the name";
    }
    ASSERT_EQ(succeeded, 1) << "in round " << round;
    listeners.clear();
    ASSERT_EQ(files(), 0u);
  }
}

TEST_F(UnixSocketTest, AFileIsRemovedByWhatItIsAndNotByItsName) {
  const auto named = path("socket"), kept = path("kept");
  auto first = UnixListener::create(named);
  ASSERT_TRUE(first) << first.error().message();
  const auto file = SocketFile::at(named);
  ASSERT_TRUE(file);
  // The path of a moved one is another file's: a link keeps the inode from being used again.
  ASSERT_EQ(::link(named.c_str(), kept.c_str()), 0);
  ASSERT_EQ(::unlink(named.c_str()), 0);
  const auto second = UnixListener::create(named);
  ASSERT_TRUE(second) << second.error().message();
  file->remove();
  EXPECT_TRUE(SocketFile::at(named)) << "it is the second one's";
  file->renamed(kept).remove();
  EXPECT_FALSE(SocketFile::at(kept));
  EXPECT_FALSE(SocketFile::at("/dev/null")) << "no socket";
}

}  // namespace
}  // namespace vmm
