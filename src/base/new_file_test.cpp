#include "src/base/new_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace vmm {
namespace {

namespace fs = std::filesystem;

class NewFileTest : public testing::Test {
 protected:
  NewFileTest() {
    std::string name = testing::TempDir() + "new-file.XXXXXX";
    directory_ = ::mkdtemp(name.data());
  }
  ~NewFileTest() override { fs::remove_all(directory_); }

  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text;
  }
  std::string content(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(path(name)).rdbuf();
    return text.str();
  }
  std::ptrdiff_t files() const {
    return std::distance(fs::directory_iterator(directory_), fs::directory_iterator());
  }
  std::string refusal(const std::string& name) const {
    const auto file = NewFile::create(path(name), 0600);
    return file ? "" : file.error().message();
  }

  std::string directory_;
};

std::span<const std::byte> bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST_F(NewFileTest, HasItsNameWhenItIsWhole) {
  auto made = NewFile::create(path("x"), 0640);
  ASSERT_TRUE(made) << made.error().message();
  NewFile file = std::move(*made);
  ASSERT_TRUE(write_all(file.fd(), bytes("whole")));
  EXPECT_FALSE(fs::exists(path("x")));
  EXPECT_EQ(file.partial(), path("x.partial"));
  ASSERT_TRUE(file.publish());
  EXPECT_EQ(content("x"), "whole");
  struct stat status{};
  ASSERT_EQ(::stat(path("x").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777 & ~0640u, 0u);
  EXPECT_EQ(files(), 1);
}

TEST_F(NewFileTest, GoesWhenItIsNotPublished) {
  {
    ASSERT_TRUE(NewFile::create(path("x"), 0600));
  }
  EXPECT_EQ(files(), 0);
}

TEST_F(NewFileTest, ReplacesNothing) {
  write("there", "precious");
  EXPECT_NE(refusal("there").find("exists already"), std::string::npos);
  auto file = NewFile::create(path("late"), 0600);
  ASSERT_TRUE(file);
  write("late", "precious");
  const auto published = file->publish();
  ASSERT_FALSE(published);
  EXPECT_NE(published.error().message().find("exists already"), std::string::npos);
  EXPECT_EQ(content("there") + content("late"), "preciousprecious");
}

TEST_F(NewFileTest, ReplacesWhatAKilledOneLeft) {
  write("x.partial", "left behind, and longer");
  fs::permissions(path("x.partial"), fs::perms(0644));
  auto file = NewFile::create(path("x"), 0600);
  ASSERT_TRUE(file) << file.error().message();
  ASSERT_TRUE(write_all(file->fd(), bytes("new")));
  ASSERT_TRUE(file->publish());
  EXPECT_EQ(content("x"), "new");
  EXPECT_EQ(fs::status(path("x")).permissions(), fs::perms(0600)) << "not those of what was left";
}

TEST_F(NewFileTest, RefusesWhatAnotherIsMaking) {
  const auto first = NewFile::create(path("x"), 0600);
  ASSERT_TRUE(first);
  EXPECT_NE(refusal("x").find("by another process"), std::string::npos);
  EXPECT_TRUE(fs::exists(path("x.partial"))) << "it is the first one's";
}

TEST_F(NewFileTest, RefusesWhatIsNoFile) {
  EXPECT_NE(refusal("directory/"), "");
  EXPECT_NE(refusal("none/x"), "");
  write("target", "precious");
  fs::create_symlink(path("target"), path("x.partial"));
  EXPECT_NE(refusal("x"), "");
  EXPECT_EQ(content("target"), "precious");
  ASSERT_EQ(::mkfifo(path("y.partial").c_str(), 0600), 0);
  EXPECT_NE(refusal("y").find("is not a regular file"), std::string::npos) << refusal("y");
}

TEST_F(NewFileTest, ReplacesWhenItIsWhole) {
  write("x", "old");
  write("x.partial", "another's");
  for (const std::string name : {"x", "y"}) {
    auto file = NewFile::replacing(path(name));
    ASSERT_TRUE(file) << file.error().message();
    ASSERT_TRUE(write_all(file->fd(), bytes("new")));
    EXPECT_EQ(content(name), name == "x" ? "old" : "");
    NewFile moved = std::move(*file);
    ASSERT_TRUE(moved.publish());
    EXPECT_EQ(content(name), "new");
    EXPECT_EQ(fs::status(path(name)).permissions(), fs::perms(0600));
  }
  EXPECT_EQ(files(), 3);
  EXPECT_EQ(content("x.partial"), "another's");
}

TEST_F(NewFileTest, ReplacesNothingByHalfAFile) {
  write("x", "old");
  {
    auto file = NewFile::replacing(path("x"));
    ASSERT_TRUE(file);
    ASSERT_TRUE(write_all(file->fd(), bytes("ne")));
    if (file->partial().empty()) {
      EXPECT_EQ(files(), 1) << "nor does a killed process";
    }
  }
  EXPECT_EQ(content("x"), "old");
  EXPECT_EQ(files(), 1);
  EXPECT_FALSE(NewFile::replacing(path("none/x")));
  EXPECT_FALSE(NewFile::replacing(path("x/")));
  fs::create_directory(path("folder"));
  auto file = NewFile::replacing(path("folder"));
  ASSERT_TRUE(file);
  EXPECT_FALSE(file->publish());
}

TEST_F(NewFileTest, RemovesNothingOfAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root makes files of others";
  write("x.partial", "theirs");
  ASSERT_EQ(::chown(path("x.partial").c_str(), 65534, 65534), 0);
  EXPECT_NE(refusal("x").find("belongs to another user"), std::string::npos) << refusal("x");
  EXPECT_EQ(content("x.partial"), "theirs");
}

TEST_F(NewFileTest, MakesTheDirectoriesThatAreMissing) {
  ASSERT_TRUE(create_directories(path("a/b/c/"), 0700));
  ASSERT_TRUE(create_directories(path("a/b/c"), 0755)) << "is there";
  struct stat status{};
  ASSERT_EQ(::stat(path("a/b/c").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0700u);
  write("file", "");
  EXPECT_EQ(create_directories(path("file/x")).error().message(),
            fmt::format("'{}' is not a directory", path("file")));
  // Nobody may make one there: it is not said that something is missing.
  const auto refused = create_directories("/sys/none");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message().find("No such file"), std::string::npos)
      << refused.error().message();
}

}  // namespace
}  // namespace vmm
