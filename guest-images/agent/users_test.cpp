#include "guest-images/agent/users.h"

#include <gtest/gtest.h>

namespace vmm::agent {
namespace {

constexpr std::string_view kPasswd =
    "root:x:0:0:root:/root:/bin/sh\n"
    "broken\n"
    "postgres:x:70:71::/var/lib/postgresql:/bin/sh\n"
    "1000:x:5:6::/home/digits:/bin/sh\n"
    "bad:x:many:0::/:/bin/sh\n";
constexpr std::string_view kGroup =
    "root:x:0:\nwheel:x:10:root,postgres\nssl:x:11:postgres\nodd:x:-1:postgres\nshort:x:12";

Credentials found(std::string_view user, const std::vector<std::string>& groups = {}) {
  auto result = look_up_user(user, groups, kPasswd, kGroup);
  EXPECT_TRUE(result) << result.error().message();
  return result.value_or(Credentials{});
}

std::string refusal(std::string_view user, const std::vector<std::string>& groups = {}) {
  const auto result = look_up_user(user, groups, kPasswd, kGroup);
  EXPECT_FALSE(result) << user;
  return result ? "" : result.error().message();
}

TEST(Users, NobodyNamedIsRoot) {
  const Credentials root = found("");
  EXPECT_EQ(root.user, 0u);
  EXPECT_EQ(root.home, "/root");
  EXPECT_EQ(root.groups, std::vector<gid_t>{10});
}

TEST(Users, ByNameWithItsGroups) {
  const Credentials user = found("postgres");
  EXPECT_EQ(user.user, 70u);
  EXPECT_EQ(user.group, 71u);
  EXPECT_EQ(user.groups, (std::vector<gid_t>{10, 11}));
  EXPECT_EQ(user.home, "/var/lib/postgresql");
  EXPECT_EQ(found("70").home, user.home);
}

TEST(Users, ByNumberWithoutEntry) {
  const Credentials user = found("4711");
  EXPECT_EQ(user.user, 4711u);
  EXPECT_EQ(user.group, 0u);
  EXPECT_EQ(user.home, "/");
  EXPECT_TRUE(user.groups.empty());
}

TEST(Users, ANamedGroupIsTheOnlyOne) {
  const Credentials user = found("postgres:wheel");
  EXPECT_EQ(user.group, 10u);
  EXPECT_TRUE(user.groups.empty());
  EXPECT_EQ(found("4711:99").group, 99u);
  EXPECT_EQ(found(":short").group, 12u) << "an entry without members";
}

TEST(Users, AdditionalGroups) {
  EXPECT_EQ(found("4711", {"ssl", "500"}).groups, (std::vector<gid_t>{11, 500}));
}

TEST(Users, NamesOfDigitsComeFirst) { EXPECT_EQ(found("1000").user, 5u); }

TEST(Users, RefusesWhatIsNotThere) {
  EXPECT_EQ(refusal("nobody"), "unable to find user 'nobody': not in /etc/passwd");
  EXPECT_EQ(refusal("root:none"), "unable to find group 'none': not in /etc/group");
  EXPECT_EQ(refusal("", {"none"}), "unable to find group 'none': not in /etc/group");
  EXPECT_EQ(refusal("bad"), "the entry of user 'bad' in /etc/passwd has invalid ids");
  EXPECT_EQ(refusal("root:odd"), "group 'odd' has the invalid id '-1'");
  refusal("4294967295");
}

}  // namespace
}  // namespace vmm::agent
