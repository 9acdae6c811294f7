// Both ends of a stream of files, over directories of this machine.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "src/base/text.h"
#include "src/files/layer.h"
#include "src/files/packer.h"
#include "src/files/unpacker.h"

namespace vmm::files {
namespace {

namespace fs = std::filesystem;
using protocol::agent::Message;

class Files : public ::testing::Test {
 protected:
  Files() {
    std::string name = "/tmp/vmm-files.XXXXXX";
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    for (const char* one : {"from", "to", "outside", "upper", "lower"}) {
      fs::create_directory(folder_ / one);
    }
  }
  ~Files() override { fs::remove_all(folder_); }

  UniqueFd open(const std::string& name) const {
    return UniqueFd(::open((folder_ / name).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << text;
  }
  std::string read(const std::string& name) const {
    std::ifstream file(folder_ / name);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  using Messages = std::vector<Message>;
  static Send into(Messages& messages) {
    return [&messages](const std::string& bytes) -> Result<void> {
      protocol::agent::MessageReader reader;
      reader.append(bytes);
      messages.push_back(*TRY(reader.next()));
      return {};
    };
  }
  Messages pack(const PackOptions& options) const {
    Messages messages;
    Packer packer(into(messages));
    const auto packed = packer.pack(open("from").get(), options);
    EXPECT_TRUE(packed) << packed.error().message();
    EXPECT_TRUE(packer.finish());
    return messages;
  }
  static std::string names_of(const Messages& messages) {
    std::string text;
    for (const auto& message : messages) {
      if (const auto entry = protocol::agent::decode<Entry>(message)) text += entry->name + " ";
    }
    return text;
  }
  // What went wrong, or "".
  std::string unpack(const Messages& messages, const UnpackOptions& options = {}) const {
    const auto root = open("to");
    auto unpacker = Unpacker::open(root.get(), options);
    if (!unpacker) return unpacker.error().message();
    for (const auto& message : messages) {
      if (const auto taken = unpacker->take(message); !taken) return taken.error().message();
    }
    const auto finished = unpacker->finish();
    return finished ? "" : finished.error().message();
  }
  template <typename... T>
  static Messages stream(const T&... parts) {
    Messages messages;
    (
        [&] {
          protocol::agent::MessageReader reader;
          reader.append(protocol::agent::encode(parts));
          messages.push_back(**reader.next());
        }(),
        ...);
    messages.push_back({End::kType, ""});
    return messages;
  }
  static Entry entry(const std::string& name, mode_t mode, std::uint64_t size = 0) {
    Entry made;
    made.name = name;
    made.mode = mode;
    made.size = size;
    return made;
  }
  static Entry symlink(const std::string& name, const std::string& target) {
    auto made = entry(name, S_IFLNK | 0777);
    made.target = target;
    return made;
  }

  bool has_user_xattrs() const {
    return ::setxattr((folder_ / "outside").c_str(), "user.test", "y", 1, 0) == 0;
  }

  fs::path folder_;
};

TEST_F(Files, ATreeArrivesAsItWas) {
  write("from/tree/file", "text");
  write("from/tree/deep/er/other", std::string(200'000, 'x'));
  write("from/tree/empty", "");
  fs::create_symlink("/etc/passwd", folder_ / "from/tree/link");
  fs::create_hard_link(folder_ / "from/tree/file", folder_ / "from/tree/second");
  fs::create_hard_link(folder_ / "from/tree/link", folder_ / "from/tree/third");
  fs::create_directory(folder_ / "from/tree/closed");
  write("from/tree/closed/in", "in");
  ASSERT_EQ(::mkfifo((folder_ / "from/tree/pipe").c_str(), 0640), 0);
  fs::permissions(folder_ / "from/tree/closed", fs::perms(0555));
  fs::permissions(folder_ / "from/tree/file", fs::perms(0751));
  const timespec times[] = {{1000, 0}, {1234, 5678}};
  ASSERT_EQ(::utimensat(AT_FDCWD, (folder_ / "from/tree/deep").c_str(), times, 0), 0);
  const auto messages = pack({"/tree", "copy"});
  EXPECT_EQ(names_of(messages),
            "copy copy/closed copy/closed/in copy/deep copy/deep/er copy/deep/er/other copy/empty "
            "copy/file copy/link copy/pipe copy/second copy/third ");
  ASSERT_EQ(unpack(messages), "");
  EXPECT_EQ(read("to/copy/file"), "text");
  EXPECT_EQ(read("to/copy/deep/er/other"), std::string(200'000, 'x'));
  EXPECT_EQ(fs::read_symlink(folder_ / "to/copy/link"), "/etc/passwd");
  EXPECT_TRUE(fs::equivalent(folder_ / "to/copy/file", folder_ / "to/copy/second"));
  EXPECT_EQ(fs::hard_link_count(folder_ / "to/copy/file"), 2u);
  EXPECT_EQ(fs::read_symlink(folder_ / "to/copy/third"), "/etc/passwd");
  struct stat status{};
  ASSERT_EQ(::stat((folder_ / "to/copy/file").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0751u);
  ASSERT_EQ(::stat((folder_ / "to/copy/closed").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0555u);
  ASSERT_EQ(::stat((folder_ / "to/copy/deep").c_str(), &status), 0);
  EXPECT_EQ(status.st_mtim.tv_sec, 1234);
  EXPECT_EQ(status.st_mtim.tv_nsec, 5678);
  ASSERT_EQ(::lstat((folder_ / "to/copy/pipe").c_str(), &status), 0);
  EXPECT_TRUE(S_ISFIFO(status.st_mode));
  // Again, over itself.
  EXPECT_EQ(unpack(messages), "");
  EXPECT_EQ(read("to/copy/second"), "text");
}

TEST_F(Files, HolesStayHoles) {
  constexpr off_t kSize = off_t{1} << 40;
  write("from/sparse", "start");
  ASSERT_EQ(::truncate((folder_ / "from/sparse").c_str(), kSize), 0);
  const auto messages = pack({"sparse", "sparse"});
  EXPECT_LT(messages.size(), 10u);
  ASSERT_EQ(unpack(messages), "");
  struct stat status{};
  ASSERT_EQ(::stat((folder_ / "to/sparse").c_str(), &status), 0);
  EXPECT_EQ(status.st_size, kSize);
  EXPECT_LT(status.st_blocks, 1024);
}

TEST_F(Files, NamesOfWhatIsPacked) {
  write("from/tree/a", "");
  fs::create_symlink("tree", folder_ / "from/link");
  EXPECT_EQ(names_of(pack({"/tree/.", "."})), ". ./a ");
  EXPECT_EQ(names_of(pack({"/tree", ""})), "a ");
  EXPECT_EQ(names_of(pack({"/link", "x"})), "x ");
  EXPECT_EQ(names_of(pack({"/link/", "x"})), "x x/a ") << "as a slash says";
  EXPECT_EQ(names_of(pack({"/link", "x", true})), "x x/a ");
}

TEST_F(Files, LinksOfARootStayInIt) {
  write("outside/secret", "secret");
  write("from/secret", "own");
  fs::create_symlink(folder_ / "outside", folder_ / "from/out");
  fs::create_symlink("../../../../../../secret", folder_ / "from/up");
  Messages messages;
  Packer packer(into(messages));
  EXPECT_FALSE(packer.pack(open("from").get(), {"/out/secret", "x"}));
  const auto up = examine(open("from").get(), "/up", true);
  ASSERT_TRUE(up && *up);
  EXPECT_EQ((*up)->size, 3u);
  const auto link = examine(open("from").get(), "/up", false);
  ASSERT_TRUE(link && *link);
  EXPECT_EQ((*link)->target, "../../../../../../secret");
  const auto none = examine(open("from").get(), "/none/x", true);
  EXPECT_TRUE(none && !*none);
}

TEST_F(Files, NothingIsWrittenOutside) {
  const auto text = [](std::string_view words) {
    const auto bytes = std::as_bytes(std::span(words));
    return Piece{0, {bytes.begin(), bytes.end()}};
  };
  const auto outside = (folder_ / "outside").string();
  write("outside/victim", "kept");
  write("to/own", "own");
  // By names, by links of the stream, by links that were there.
  EXPECT_EQ(unpack(stream(entry("../outside/x", S_IFREG | 0644))),
            "the name '../outside/x' leads out of its directory");
  EXPECT_EQ(unpack(stream(entry("a/../../outside/x", S_IFREG | 0644))),
            "the name 'a/../../outside/x' leads out of its directory");
  EXPECT_EQ(unpack(stream(entry("/etc/x", S_IFREG | 0644))), "the name '/etc/x' is absolute");
  EXPECT_EQ(unpack(stream(symlink("l", outside), entry("l/x", S_IFREG | 0644))),
            "'l/x' leads through a symbolic link");
  EXPECT_EQ(unpack(stream(symlink("l", outside), entry("l", S_IFDIR | 0755))),
            "cannot overwrite non-directory \"l\" with directory \"l\"");
  EXPECT_EQ(
      unpack(stream(symlink("m", outside + "/victim"), entry("m", S_IFREG | 0644, 3), text("new"))),
      "");
  EXPECT_EQ(read("to/m"), "new");
  fs::create_symlink(outside, folder_ / "to/there");
  EXPECT_EQ(unpack(stream(entry("there/x", S_IFREG | 0644))),
            "'there/x' leads through a symbolic link");
  auto link = entry("h", S_IFREG | 0644);
  link.hard_link = "../outside/victim";
  EXPECT_EQ(unpack(stream(link)), "the name '../outside/victim' leads out of its directory");
  link.hard_link = "there/victim";
  EXPECT_NE(unpack(stream(link)), "");
  EXPECT_EQ(read("outside/victim"), "kept");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "outside"), {}), 1);
  // What was not asked for.
  EXPECT_EQ(unpack(stream(entry("own", S_IFREG | 0644)), {.only = "mine"}),
            "the stream has 'own', which was not asked for");
  EXPECT_EQ(read("to/own"), "own");
}

// A file that was below the directory before is its owner's: one more name would show it to others,
// and what is written to that name would change it.
TEST_F(Files, HardLinksLeadToFilesOfTheStreamAlone) {
  write("to/.ssh/id_rsa", "secret");
  fs::create_symlink(".ssh/id_rsa", folder_ / "to/link");
  const auto hard_link = [](const std::string& name, const std::string& target) {
    auto made = entry(name, S_IFREG | 0644);
    made.hard_link = target;
    return made;
  };
  EXPECT_EQ(unpack(stream(hard_link("config.json", ".ssh/id_rsa"))),
            "the hard link 'config.json' leads to '.ssh/id_rsa', which the stream did not bring");
  EXPECT_NE(unpack(stream(hard_link("config.json", "link"))), "");
  EXPECT_FALSE(fs::exists(folder_ / "to/config.json"));
  EXPECT_EQ(unpack(stream(hard_link(".ssh/id_rsa", ".ssh/id_rsa"))),
            "the hard link '.ssh/id_rsa' leads to '.ssh/id_rsa', which the stream did not bring");
  EXPECT_EQ(unpack(stream(entry("a", S_IFREG | 0644), hard_link("a", "b"))),
            "cannot link 'a' to 'b': No such file or directory");
  // Names that were not asked for are no targets either.
  EXPECT_EQ(unpack(stream(hard_link("a", ".ssh/id_rsa")), {.only = "a"}),
            "the stream has '.ssh/id_rsa', which was not asked for");
  EXPECT_EQ(read("to/.ssh/id_rsa"), "secret");
  EXPECT_EQ(fs::hard_link_count(folder_ / "to/.ssh/id_rsa"), 1u);
  // To a name that the stream replaced, and over itself.
  write("to/x", "old");
  EXPECT_EQ(unpack(stream(entry("x", S_IFREG | 0644), hard_link("y", "x"), hard_link("y", "x"),
                          hard_link("x", "y"))),
            "");
  EXPECT_EQ(fs::hard_link_count(folder_ / "to/x"), 2u);
  // The number of a file that it replaced is free for another's.
  const auto root = open("to");
  auto unpacker = Unpacker::open(root.get(), {});
  ASSERT_TRUE(unpacker);
  auto replaced =
      stream(entry("p", S_IFREG | 0644), entry("q", S_IFREG | 0644), hard_link("q", "p"));
  replaced.pop_back();  // the end
  for (const auto& one : replaced) ASSERT_TRUE(unpacker->take(one));
  write("to/victim", "secret");
  EXPECT_FALSE(unpacker->take(stream(hard_link("v", "victim")).front()));
  // Within a container all files are its own.
  EXPECT_EQ(unpack(stream(hard_link("v", "victim")), {.path = "/", .within = Within::root}), "");
}

TEST_F(Files, WhatIsNoStream) {
  EXPECT_EQ(unpack({}), "the stream of files broke off");
  EXPECT_EQ(unpack(stream(Piece{})), "data without a file");
  EXPECT_EQ(unpack(stream(entry("x", S_IFREG, 1), Piece{1, protocol::Bytes(1)})),
            "'x' has data outside of its size");
  EXPECT_EQ(unpack(stream(entry("x", S_IFREG, 9), Piece{2, protocol::Bytes(2)},
                          Piece{0, protocol::Bytes(2)})),
            "'x' has data outside of its size");
  EXPECT_NE(unpack(stream(entry("x", S_IFREG, 1ull << 63))), "");
  EXPECT_EQ(unpack(stream(entry(std::string(4096, 'x'), S_IFREG))),
            "a name is longer than 4095 bytes");
  EXPECT_EQ(unpack(stream(entry("x", S_IFBLK | 0666))),
            "'x' is a device or of another kind that cannot be copied");
  EXPECT_EQ(unpack(stream(End{}, entry("x", S_IFREG))),
            "the stream of files goes on after its end");
  EXPECT_EQ(unpack({{99, ""}}), "unknown message 99 of files");
}

// Root may copy with owners, too (cp -a): what the container's root made there is no key to the
// host.
TEST_F(Files, WhatActsOnTheHostStaysBehind) {
  for (const auto owner : {Owner::own, Owner::kept}) {
    std::vector<Entry> made = {entry("file", S_IFREG | 06755), entry("folder", S_IFDIR | 07777)};
    for (auto& one : made) {
      one.uid = ::geteuid();
      one.gid = ::getegid();
      for (const char* name : {"user.kept", "security.capability", "trusted.overlay.opaque"}) {
        one.xattrs.push_back({name, protocol::Bytes(20)});
      }
    }
    ASSERT_EQ(unpack(stream(made[0], made[1]), {.owner = owner}), "");
    for (const char* name : {"to/file", "to/folder"}) {
      const auto path = folder_ / name;
      struct stat status{};
      ASSERT_EQ(::stat(path.c_str(), &status), 0);
      EXPECT_EQ(status.st_mode & 07777, S_ISDIR(status.st_mode) ? 01777u : 0755u) << name;
      std::string found(4096, '\0');
      const ssize_t size = ::listxattr(path.c_str(), found.data(), found.size());
      found.resize(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
      EXPECT_FALSE(found.contains("security.capability")) << name;
      EXPECT_FALSE(found.contains("trusted.")) << name;
      EXPECT_EQ(found.contains("user.kept"), owner == Owner::kept && has_user_xattrs()) << name;
    }
    EXPECT_EQ(unpack(stream(entry("x", S_IFCHR | 0666)), {.owner = owner}),
              "'x' is a device or of another kind that cannot be copied");
    EXPECT_FALSE(fs::exists(folder_ / "to/x"));
  }
}

TEST_F(Files, SetuidOfAContainerStaysInIt) {
  auto made = entry("x", S_IFREG | 06755);
  made.uid = ::geteuid();
  made.gid = ::getegid();
  ASSERT_EQ(unpack(stream(made), {"/", Within::root, Owner::kept}), "");
  struct stat status{};
  ASSERT_EQ(::stat((folder_ / "to/x").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 06755u);
}

TEST_F(Files, DirectoriesAndFilesDoNotReplaceEachOther) {
  write("to/dir/x", "");
  write("to/file", "");
  EXPECT_EQ(unpack(stream(entry("dir", S_IFREG | 0644))),
            "cannot overwrite directory \"dir\" with non-directory \"dir\"");
  EXPECT_EQ(unpack(stream(entry("file", S_IFDIR | 0755))),
            "cannot overwrite non-directory \"file\" with directory \"file\"");
  EXPECT_EQ(unpack(stream(entry("dir", S_IFDIR | 0700))), "");
  EXPECT_TRUE(fs::exists(folder_ / "to/dir/x"));
}

TEST_F(Files, DevicesAndSocketsOfTheHostAreNotReplaced) {
  ASSERT_EQ(::mkfifo((folder_ / "to/pipe").c_str(), 0600), 0);
  ASSERT_EQ(::mknod((folder_ / "to/socket").c_str(), S_IFSOCK | 0600, 0), 0);
  write("to/file", "");
  std::vector<std::string> names = {"pipe", "socket"};
  if (::mknod((folder_ / "to/null").c_str(), S_IFCHR | 0600, 0) == 0) names.push_back("null");
  for (const auto& name : names) {
    const auto refused =
        fmt::format("invalid output path: \"{}\" must be a directory or a regular file", name);
    EXPECT_EQ(unpack(stream(entry(name, S_IFREG | 0644))), refused);
    EXPECT_EQ(unpack(stream(symlink(name, "x"))), refused);
    auto link = entry(name, S_IFREG | 0644);
    link.hard_link = "file";
    EXPECT_EQ(unpack(stream(entry("file", S_IFREG | 0644), link)), refused);
    struct stat status{};
    ASSERT_EQ(::lstat((folder_ / "to" / name).c_str(), &status), 0);
    EXPECT_FALSE(S_ISREG(status.st_mode) || S_ISLNK(status.st_mode)) << name;
  }
  EXPECT_EQ(unpack(stream(entry("pipe", S_IFIFO | 0644))), "") << "a copy over an earlier one";
  // A container's own are replaced, as in Docker.
  for (const auto& name : names) {
    EXPECT_EQ(unpack(stream(entry(name, S_IFREG | 0644)), {"/", Within::root}), "");
  }
}

TEST_F(Files, MissingParentsAreMadeAndLinksOfTheRootFollowed) {
  fs::create_directories(folder_ / "to/srv/real");
  fs::create_symlink("/srv/real", folder_ / "to/data");
  EXPECT_EQ(unpack(stream(entry("a/b/c", S_IFREG | 0644)), {"/data", Within::root}), "");
  EXPECT_TRUE(fs::exists(folder_ / "to/srv/real/a/b/c"));
  fs::create_symlink("/", folder_ / "to/srv/real/top");
  EXPECT_EQ(unpack(stream(entry("top/c", S_IFREG | 0644)), {"/data", Within::root}), "");
  EXPECT_TRUE(fs::exists(folder_ / "to/c"));
  EXPECT_NE(unpack(stream(), {"/none", Within::root}), "");
}

// ---- layers

class Layers : public Files {
 protected:
  void SetUp() override {
    if (::setxattr((folder_ / "upper").c_str(), "trusted.vmm-test", "y", 1, 0) < 0) {
      GTEST_SKIP() << "attributes of overlayfs take root";
    }
    write("lower/etc/passwd", "root");
    write("lower/etc/group", "root");
    write("lower/opaque/old", "");
    write("lower/opaque/both", "");
    write("upper/etc/passwd", "changed");
    write("upper/new/file", "new");
    write("upper/opaque/both", "");
    write("upper/opaque/young", "");
    whiteout("etc/group");
    mark("opaque", "opaque", "y");
    mark("new", "opaque", "y");
    // Of the container's start.
    write("upper/etc/hosts", "");
    fs::create_directory(folder_ / "upper/proc");
  }
  void whiteout(const std::string& name) {
    ASSERT_EQ(::mknod((folder_ / "upper" / name).c_str(), S_IFCHR, 0), 0);
  }
  void mark(const std::string& name, const std::string& what, const std::string& value) {
    ASSERT_EQ(::setxattr((folder_ / "upper" / name).c_str(), ("trusted.overlay." + what).c_str(),
                         value.data(), value.size(), 0),
              0);
  }
  std::string changes() {
    Messages messages;
    Packer packer(into(messages));
    EXPECT_TRUE(list_changes(packer, open("upper").get(), open("lower").get()));
    std::string text;
    for (const auto& message : messages) {
      const auto change = protocol::agent::decode<Change>(message);
      EXPECT_TRUE(change);
      text += "CAD"[static_cast<int>(change->kind)] + change->path + " ";
    }
    return text;
  }
};

TEST_F(Layers, ChangesOfAContainer) {
  EXPECT_EQ(changes(),
            "C/etc D/etc/group C/etc/passwd A/new A/new/file C/opaque C/opaque/both D/opaque/old "
            "A/opaque/young ");
}

TEST_F(Layers, WhatAStartMakesIsNoChange) {
  for (const char* name : {"passwd", "group"}) fs::remove(folder_ / "upper/etc" / name);
  for (const char* name : {"new", "opaque"}) fs::remove_all(folder_ / "upper" / name);
  EXPECT_EQ(changes(), "");
  write("upper/etc/hosts", "own");
  EXPECT_EQ(changes(), "C/etc A/etc/hosts ");
}

// Such a name would remove another file of the image.
TEST_F(Layers, ALayerRemovesNothingThatTheContainerHas) {
  for (const char* name : {"etc/.wh.passwd", "etc/.wh..wh..opq", ".wh.new"}) {
    write(std::string("upper/") + name, "the container's own");
    Messages messages;
    Packer packer(into(messages));
    const auto packed = pack_layer(packer, open("upper").get(), open("lower").get());
    ASSERT_FALSE(packed) << name;
    EXPECT_EQ(
        packed.error().message(),
        fmt::format("no image can have a file named '{}': .wh. before a name removes the file "
                    "of that name; rename or remove it",
                    name));
    fs::remove(folder_ / "upper" / name);
  }
  write("upper/etc/.wh", "no mark");
  EXPECT_TRUE(changes().contains("A/etc/.wh "));
}

TEST_F(Layers, ALayerHasWhiteouts) {
  Messages messages;
  Packer packer(into(messages));
  ASSERT_TRUE(pack_layer(packer, open("upper").get(), open("lower").get()));
  EXPECT_EQ(names_of(messages),
            "etc etc/.wh.group etc/passwd new new/file opaque opaque/.wh..wh..opq opaque/both "
            "opaque/young ");
  for (const auto& message : messages) {
    const auto one = protocol::agent::decode<Entry>(message);
    EXPECT_TRUE(!one || one->xattrs.empty()) << one->name;
  }
  mark("new", "redirect", "/etc");
  const auto moved = pack_layer(packer, open("upper").get(), open("lower").get());
  ASSERT_FALSE(moved);
  EXPECT_EQ(moved.error().message(),
            "'new' was moved in a way that no layer can say (trusted.overlay.redirect)");
}

}  // namespace
}  // namespace vmm::files
