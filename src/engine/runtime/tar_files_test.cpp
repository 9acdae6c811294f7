// Streams of files as archives, and what a hostile machine may say.
#include "src/engine/runtime/tar_files.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/unique_fd.h"

namespace vmm::engine {
namespace {

using protocol::files::Entry;
using protocol::files::Piece;

UniqueFd memory_file() { return UniqueFd(::memfd_create("tar-test", MFD_CLOEXEC)); }

template <typename T>
protocol::agent::Message message(const T& one) {
  return {T::kType, protocol::encode_fields(one)};
}
Entry file(const std::string& name, std::uint64_t size = 0) {
  Entry entry;
  entry.name = name;
  entry.mode = S_IFREG | 0644;
  entry.size = size;
  return entry;
}
std::string error_of(TarOfFiles& tar, const protocol::agent::Message& one) {
  const auto taken = tar.take(one);
  return taken ? "" : taken.error().message();
}

TEST(TarOfFiles, ComesBackAsItWas) {
  const auto fd = memory_file();
  TarOfFiles tar(fd.get(), "");
  ASSERT_TRUE(tar.open());
  auto sparse = file("dir\xff/sparse", 200'000);
  sparse.uid = 1234;
  sparse.mtime = 5;
  sparse.mtime_ns = 7;
  sparse.xattrs = {{"user.x", {std::byte{'v'}, std::byte{0}}}};
  EXPECT_EQ(error_of(tar, message(sparse)), "");
  EXPECT_EQ(error_of(tar, message(Piece{100'000, {std::byte{'x'}}})), "");
  auto link = file("link\xe9");
  link.hard_link = "dir\xff/sparse";
  EXPECT_EQ(error_of(tar, message(link)), "");
  auto device = file("null");
  device.mode = S_IFCHR | 0666;
  device.major = 300;
  device.minor = 70'000;
  EXPECT_EQ(error_of(tar, message(device)), "");
  auto symlink = file("symlink");
  symlink.mode = S_IFLNK | 0777;
  symlink.target = "target\x80";
  EXPECT_EQ(error_of(tar, message(symlink)), "");
  ASSERT_TRUE(tar.finish());

  ASSERT_EQ(::lseek(fd.get(), 0, SEEK_SET), 0);
  FileSource source(fd.get());
  std::vector<Entry> entries;
  std::uint64_t bytes = 0;
  bool ended = false;
  ASSERT_TRUE(send_archive(source, [&](const std::string& encoded) -> Result<void> {
    protocol::agent::MessageReader reader;
    reader.append(encoded);
    const auto found = TRY(reader.next());
    if (!found) return fail("half a message");
    const auto& one = *found;
    if (one.type == Entry::kType) entries.push_back(TRY(protocol::agent::decode<Entry>(one)));
    if (one.type == Piece::kType) {
      bytes += TRY(protocol::agent::decode<Piece>(one)).bytes.size();
    }
    ended = one.type == protocol::files::End::kType;
    return {};
  }));
  EXPECT_TRUE(ended);
  ASSERT_EQ(entries.size(), 4u);
  EXPECT_EQ(entries[0].name, "dir\xff/sparse");
  EXPECT_EQ(entries[0].uid, 1234u);
  EXPECT_EQ(entries[0].mtime, 5u);
  EXPECT_EQ(entries[0].mtime_ns, 7u);
  EXPECT_EQ(entries[0].size, 200'000u);
  EXPECT_EQ(bytes, 200'000u);
  ASSERT_EQ(entries[0].xattrs.size(), 1u);
  EXPECT_EQ(entries[0].xattrs[0].value.size(), 2u);
  EXPECT_EQ(entries[1].name, "link\xe9");
  EXPECT_EQ(entries[1].hard_link, "dir\xff/sparse");
  EXPECT_EQ(entries[2].major, 300u);
  EXPECT_EQ(entries[2].minor, 70'000u);
  EXPECT_EQ(entries[3].target, "target\x80");
}

// The letter and its accent apart, and as one: two names, of two files.
TEST(TarOfFiles, ComposesNoLetters) {
  const std::string apart = "cafe\u0301", composed = "caf\u00e9";
  const auto fd = memory_file();
  TarOfFiles tar(fd.get(), "");
  ASSERT_TRUE(tar.open());
  for (const auto& name : {apart, composed}) {
    EXPECT_EQ(error_of(tar, message(file(name))), "");
    auto link = file(name + "/s");
    link.mode = S_IFLNK | 0777;
    link.target = name;
    EXPECT_EQ(error_of(tar, message(link)), "");
    auto hard = file(name + "/h");
    hard.hard_link = name;
    EXPECT_EQ(error_of(tar, message(hard)), "");
  }
  ASSERT_TRUE(tar.finish());
  std::string archive(static_cast<std::size_t>(::lseek(fd.get(), 0, SEEK_END)), '\0');
  ASSERT_TRUE(read_exact_at(fd.get(), std::as_writable_bytes(std::span(archive)), 0));
  EXPECT_FALSE(archive.contains("hdrcharset")) << "they are UTF-8, which needs no mark";

  ASSERT_EQ(::lseek(fd.get(), 0, SEEK_SET), 0);
  FileSource source(fd.get());
  std::string names;
  ASSERT_TRUE(send_archive(source, [&names](const std::string& encoded) -> Result<void> {
    protocol::agent::MessageReader reader;
    reader.append(encoded);
    const auto one = TRY(reader.next());
    if (!one || one->type != Entry::kType) return {};
    const auto entry = TRY(protocol::agent::decode<Entry>(*one));
    names += fmt::format("{}:{}{} ", entry.name, entry.hard_link, entry.target);
    return {};
  }));
  std::string expected;
  for (const auto& name : {apart, composed}) {
    expected += fmt::format("{0}: {0}/s:{0} {0}/h:{0} ", name);
  }
  EXPECT_EQ(names, expected);
}

TEST(TarOfFiles, HasNoNamesThatLeadOut) {
  const auto fd = memory_file();
  TarOfFiles tar(fd.get(), "etc");
  ASSERT_TRUE(tar.open());
  EXPECT_EQ(error_of(tar, message(file("../x"))), "the name '../x' leads out of its directory");
  EXPECT_EQ(error_of(tar, message(file("/x"))), "the name '/x' is absolute");
  EXPECT_EQ(error_of(tar, message(file("etcetera"))),
            "the machine says 'etcetera', which was not asked for");
  EXPECT_EQ(error_of(tar, message(file("."))), "the machine says '.', which was not asked for");
  auto link = file("etc/x");
  link.hard_link = "etc/../../x";
  EXPECT_EQ(error_of(tar, message(link)), "the name 'etc/../../x' leads out of its directory");
  EXPECT_EQ(error_of(tar, message(file("etc/x"))), "");
}

// A file of holes costs the machine nothing.
TEST(TarOfFiles, IsBounded) {
  const auto fd = memory_file();
  TarOfFiles tar(fd.get(), "", 1u << 20);
  ASSERT_TRUE(tar.open());
  EXPECT_EQ(error_of(tar, message(file("x", 1ull << 62))),
            "its files take more than 1048576 bytes");
  EXPECT_EQ(error_of(tar, message(file("x", 1u << 19))), "");
  std::string error;
  std::size_t entries = 0;
  for (; error.empty() && entries < 10'000; ++entries) error = error_of(tar, message(file("y")));
  EXPECT_EQ(error, "its files take more than 1048576 bytes");
  EXPECT_LT(entries, 1100u);
  EXPECT_EQ(error_of(tar, message(Piece{1, {std::byte{1}}})),
            "the machine says data outside of 'y'");
}

// Nor do names and attributes, of which an archive has two notations.
TEST(TarOfFiles, CountsAllOfAHeader) {
  constexpr std::uint64_t kLimit = 1u << 20, kHeader = 32u << 10;
  auto named = file(std::string(4000, 'n'));
  auto linked = file("x");
  linked.mode = S_IFLNK | 0777;
  linked.target = std::string(4000, 't');
  auto hard = file("x");
  hard.hard_link = named.name;
  auto marked = file("x");
  marked.xattrs = {{"user.x", protocol::Bytes(10'000)}};
  for (const auto& one : {named, linked, hard, marked}) {
    const auto fd = memory_file();
    TarOfFiles tar(fd.get(), "", kLimit);
    ASSERT_TRUE(tar.open());
    std::string error;
    for (int i = 0; error.empty() && i < 10'000; ++i) error = error_of(tar, message(one));
    EXPECT_EQ(error, "its files take more than 1048576 bytes");
    const auto size = static_cast<std::uint64_t>(::lseek(fd.get(), 0, SEEK_END));
    EXPECT_GT(size, kLimit - kHeader);
    EXPECT_LT(size, kLimit + kHeader);
  }
}

TEST(TarOfFiles, RefusesAttributesThatNoFileHas) {
  const auto fd = memory_file();
  TarOfFiles tar(fd.get(), "");
  ASSERT_TRUE(tar.open());
  auto marked = file("x");
  marked.xattrs = {{"user.x", protocol::Bytes(65536)}};
  EXPECT_EQ(error_of(tar, message(marked)), "");
  marked.xattrs[0].value.resize(65537);
  EXPECT_EQ(error_of(tar, message(marked)),
            "an extended attribute of 'x' is longer than 65536 bytes");
  marked.xattrs.clear();
  for (int i = 0; i < 300; ++i) marked.xattrs.push_back({fmt::format("user.{:0>250}", i), {}});
  EXPECT_EQ(error_of(tar, message(marked)),
            "the names of extended attributes of 'x' are longer than 65536 bytes");
}

}  // namespace
}  // namespace vmm::engine
