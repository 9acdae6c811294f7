#include "devices/backend/net/name_servers.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace vmm::net {
namespace {

std::vector<std::string> texts(const NameServers& names) {
  std::vector<std::string> result;
  for (const auto& server : names.servers()) result.push_back(server.address.text());
  return result;
}

TEST(NameServersTest, Parses) {
  const auto servers = NameServers::parse(
      "# nameserver 1.1.1.1\nsearch example\nnameserver\t192.0.2.1 # first\n; nameserver 2.2.2.2\n"
      "nameserver example\nnameserver fe80::1%lo\n  nameserver fe80::2%7\nnameserver 192.0.2.4");
  ASSERT_EQ(servers.size(), 3u);
  EXPECT_EQ(servers[0].address.text(), "192.0.2.1");
  EXPECT_EQ(servers[1].address.text(), "fe80::1");
  EXPECT_EQ(servers[1].scope, 1u);
  EXPECT_EQ(servers[2].scope, 7u);
}

class NameServersFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/names-test-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    std::filesystem::create_directories(folder_ / "etc");
    std::filesystem::create_directories(folder_ / "mnt/wsl");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  static void write(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path) << text;
  }
  static bool noticed(const NameServers& names) {
    pollfd entry{names.fd(), POLLIN, 0};
    return ::poll(&entry, 1, 10'000) == 1;
  }
  std::filesystem::path folder_;
};

TEST_F(NameServersFileTest, ALinkAndWhatItNamesAreFollowed) {
  const auto link = folder_ / "etc/resolv.conf", real = folder_ / "mnt/wsl/resolv.conf";
  write(real, "nameserver 192.0.2.1\n");
  std::filesystem::create_symlink(real, link);
  NameServers names(link);
  EXPECT_EQ(texts(names), (std::vector<std::string>{"192.0.2.1"}));
  EXPECT_FALSE(names.refresh());
  // As programs replace it.
  write(folder_ / "mnt/wsl/new", "nameserver 2001:db8::1\n");
  std::filesystem::rename(folder_ / "mnt/wsl/new", real);
  ASSERT_TRUE(noticed(names));
  EXPECT_TRUE(names.refresh());
  EXPECT_EQ(texts(names), (std::vector<std::string>{"2001:db8::1"}));
  EXPECT_EQ(names.complaint(), "");
  // The link is replaced.
  write(folder_ / "etc/other", "nameserver 192.0.2.3\n");
  std::filesystem::remove(link);
  std::filesystem::create_symlink("other", link);
  ASSERT_TRUE(noticed(names));
  EXPECT_TRUE(names.refresh());
  EXPECT_EQ(texts(names), (std::vector<std::string>{"192.0.2.3"}));
}

TEST_F(NameServersFileTest, WhyThereAreNoneIsSaid) {
  const auto path = folder_ / "etc/resolv.conf";
  NameServers names(path);
  EXPECT_EQ(names.complaint(),
            fmt::format("cannot open '{}': No such file or directory", path.string()));
  write(path, "search example\n");
  ASSERT_TRUE(noticed(names));
  EXPECT_FALSE(names.refresh());
  EXPECT_EQ(names.complaint(), fmt::format("'{}' names no name server", path.string()));
}

}  // namespace
}  // namespace vmm::net
