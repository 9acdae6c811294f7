#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstring>
#include <random>

#include "src/base/unique_fd.h"
#include "src/engine/erofs/format.h"
#include "src/engine/erofs/metadata.h"
#include "src/engine/erofs/reader.h"
#include "src/engine/erofs/tree.h"
#include "src/engine/erofs/xattr.h"

namespace vmm::erofs {
namespace {

Inode of_mode(mode_t mode) {
  Inode inode;
  inode.mode = mode;
  return inode;
}

InodeId add(Tree& tree, InodeId directory, const std::string& name, Inode inode) {
  return tree.at(directory).children[name] = tree.add(std::move(inode));
}

UniqueFd file_of(std::span<const std::byte> bytes) {
  UniqueFd fd(::memfd_create("erofs-test", MFD_CLOEXEC));
  EXPECT_TRUE(write_all_at(fd.get(), bytes, 0));
  return fd;
}

std::vector<std::byte> encode(const Tree& tree) {
  const auto metadata = Metadata::plan(tree, 0);
  EXPECT_TRUE(metadata) << metadata.error().message();
  const std::array<std::uint32_t, 1> devices = {metadata->blocks()};
  return metadata->encode(devices, metadata->blocks() + 100);
}

// Paths with all that an inode has, links by the number of the first path.
void describe(const Tree& tree, InodeId id, const std::string& path,
              std::map<InodeId, std::string>& seen, std::string& text) {
  const Inode& inode = tree.at(id);
  text += fmt::format("{} {:o} {}:{} {}.{} {} {} {}", path, inode.mode, inode.uid, inode.gid,
                      inode.mtime, inode.mtime_ns, inode.size, inode.rdev, inode.target);
  for (const auto& xattr : inode.xattrs) text += fmt::format(" {}={}", xattr.name, xattr.value);
  if (!inode.is_directory()) text += " link " + seen.emplace(id, path).first->second;
  text += "\n";
  for (const auto& [name, child] : inode.children) {
    describe(tree, child, path + "/" + name, seen, text);
  }
}
std::string describe(const Tree& tree) {
  std::string text;
  std::map<InodeId, std::string> seen;
  describe(tree, Tree::kRoot, "", seen, text);
  return text;
}

Tree some_tree() {
  Tree tree;
  auto file = of_mode(S_IFREG | 0640);
  file.size = 5000;
  file.uid = 70000;
  file.gid = 4'000'000'000;
  file.mtime = -5;
  file.mtime_ns = 999'999'999;
  file.xattrs = {{"security.capability", std::string("\1\0\0\2", 4)},
                 {"user.a", ""},
                 {"system.posix_acl_access", "x"}};
  const auto id = add(tree, Tree::kRoot, "file", file);
  tree.at(Tree::kRoot).children["-before the dots"] = id;
  add(tree, Tree::kRoot, "fifo", of_mode(S_IFIFO | 0600));
  auto device = of_mode(S_IFBLK | 0660);
  device.rdev = encode_device(8, 300);
  add(tree, Tree::kRoot, "device", device);
  for (const auto length : {1u, 3900u, 4032u, 4033u, 4095u}) {
    auto link = of_mode(S_IFLNK | 0777);
    link.target = std::string(length, 'x');
    add(tree, Tree::kRoot, fmt::format("link{}", length), link);
  }
  // Directories of every number of blocks' fill around a block.
  for (const int count : {0, 1, 30, 60, 61, 62, 63, 64, 200, 3000}) {
    const auto directory =
        add(tree, Tree::kRoot, fmt::format("d{}", count), of_mode(S_IFDIR | 0700));
    for (int i = 0; i < count; ++i) {
      add(tree, directory, fmt::format("{:052}", i), of_mode(S_IFREG));
    }
  }
  auto heavy = of_mode(S_IFDIR | 0711);
  for (int i = 0; i < 50; ++i) {
    heavy.xattrs.push_back({fmt::format("user.{}", i), std::string(1000, 'v')});
  }
  add(tree, add(tree, Tree::kRoot, "heavy", heavy), std::string(255, 'n'), of_mode(S_IFREG));
  return tree;
}

TEST(Erofs, IsReadAsItWasWritten) {
  const auto tree = some_tree();
  const auto read = read_image(file_of(encode(tree)).get());
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(describe(read->tree), describe(tree));
}

TEST(Erofs, ReachesBehindItsLastInode) {
  // fsck.erofs reads the header of attributes behind each inode.
  int at_the_end = 0;  // images whose last inode ends with a block
  for (std::size_t shift = 1; shift <= 8; ++shift) {
    Tree tree;
    tree.at(Tree::kRoot).set_xattr("user.shift", std::string(shift * kSlotSize, 'x'));
    for (int files = 1; files <= 100; ++files) {
      add(tree, Tree::kRoot, std::to_string(files), of_mode(S_IFREG | 0644));
      const auto bytes = encode(tree);
      auto links = bytes.size();  // the last field of the last inode that is not 0
      while (links > 0 && bytes[links - 1] == std::byte{0}) --links;
      ASSERT_GT(links, offsetof(ExtendedInode, links));
      const auto end = links - 1 - offsetof(ExtendedInode, links) + sizeof(ExtendedInode);
      EXPECT_LE(end + sizeof(XattrHeader), bytes.size()) << files << " files";
      if (end % kBlockSize == 0) ++at_the_end;
    }
  }
  EXPECT_GT(at_the_end, 0);
}

TEST(Erofs, RefusesWhatItCannotHave) {
  const auto error_of = [](Inode inode, const std::string& name) {
    Tree tree;
    add(tree, Tree::kRoot, name, std::move(inode));
    const auto metadata = Metadata::plan(tree, 0);
    return metadata ? "" : metadata.error().message();
  };
  EXPECT_EQ(error_of(of_mode(S_IFREG), "fine"), "");
  for (const auto& name : {std::string(), std::string("."), std::string(".."), std::string("a/b"),
                           std::string("a\0b", 3), std::string(256, 'a')}) {
    EXPECT_NE(error_of(of_mode(S_IFREG), name), "") << name;
  }
  EXPECT_NE(error_of(of_mode(0), "a"), "");
  auto link = of_mode(S_IFLNK);
  link.target = std::string(4096, 'a');
  EXPECT_NE(error_of(link, "a"), "");
  auto attributes = of_mode(S_IFREG);
  attributes.xattrs = {{"system.other", ""}};
  EXPECT_NE(error_of(attributes, "a"), "");
  attributes.xattrs = {{"user.a", std::string(65535, 'a')}, {"user.b", "b"}};
  EXPECT_NE(error_of(attributes, "a"), "");
}

TEST(Erofs, SurvivesADamagedImage) {
  const auto good = encode(some_tree());
  std::mt19937 random(1);
  int refused = 0;
  for (int round = 0; round < 300; ++round) {
    auto bad = good;
    for (int i = 0; i < 40; ++i) bad[1024 + random() % (bad.size() - 1024)] = std::byte(random());
    if (!read_image(file_of(bad).get())) ++refused;
  }
  EXPECT_GT(refused, 0);
  for (const auto size : {0u, 1024u, 1100u, 1152u, 4096u}) {
    EXPECT_FALSE(read_image(file_of(std::span(good).first(size)).get())) << size;
  }
}

TEST(Tree, FollowsLinksWithinTheRoot) {
  Tree tree;
  const auto a = add(tree, Tree::kRoot, "a", of_mode(S_IFDIR));
  const auto b = add(tree, a, "b", of_mode(S_IFDIR));
  const auto link = [&tree](InodeId directory, const std::string& name, const std::string& target) {
    auto inode = of_mode(S_IFLNK);
    inode.target = target;
    add(tree, directory, name, inode);
  };
  link(b, "up", "../../../../a");
  link(b, "root", "/");
  link(Tree::kRoot, "loop", "loop");
  link(Tree::kRoot, "to", "a/b");
  add(tree, a, "file", of_mode(S_IFREG));
  const auto find = [&tree](std::string_view path) {
    return tree.find_directory(path, Tree::Missing::fails, {});
  };
  EXPECT_EQ(**find("/a/b/up"), a);
  EXPECT_EQ(**find("to/up/b"), b);
  EXPECT_EQ(**find("../../to/root/.."), Tree::kRoot);
  EXPECT_FALSE(find("loop"));
  EXPECT_FALSE(find("nothing")->has_value());
  EXPECT_FALSE(find("a/file/x")->has_value());
  const auto made = tree.find_directory("to/c/d", Tree::Missing::is_created, of_mode(S_IFDIR));
  EXPECT_EQ(tree.child(*tree.child(b, "c"), "d"), **made);
  EXPECT_FALSE(tree.find_directory("a/file/x", Tree::Missing::is_created, of_mode(S_IFDIR)));
}

TEST(Tree, CleansPaths) {
  using Parts = std::vector<std::string>;
  EXPECT_EQ(clean_components("./a//b/../c/"), (Parts{"a", "c"}));
  EXPECT_EQ(clean_components("../../etc"), (Parts{"etc"}));
  EXPECT_EQ(clean_components("/"), Parts{});
}

}  // namespace
}  // namespace vmm::erofs
