#include "src/engine/store/store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <future>

#include "src/engine/store/test_directory.h"

namespace vmm::engine {
namespace {

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::size_t files_in(const std::string& directory) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    (void)entry;
    ++count;
  }
  return count;
}

TEST(Digest, IsOfTheContent) {
  EXPECT_EQ(Digest::of("abc").text(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(*Digest::parse(Digest::of("abc").text()), Digest::of("abc"));
}

TEST(Digest, RefusesWhatIsNone) {
  for (const std::string text : {"", "sha256:", "sha512:00", "sha256:../../../etc/passwd"}) {
    EXPECT_FALSE(Digest::parse(text)) << text;
  }
  EXPECT_FALSE(Digest::parse("sha256:" + std::string(64, 'A')));
  EXPECT_FALSE(Digest::parse("sha256:" + std::string(65, 'a')));
}

TEST(ContentStore, KeepsWhatIsPublished) {
  TestDirectory directory;
  const auto store = *ContentStore::open(directory.path());
  auto writer = *BlobWriter::create(store);
  ASSERT_TRUE(writer.write(bytes("one ")) && writer.write(bytes("two")));
  auto written = writer.finish();
  EXPECT_EQ(written.digest, Digest::of("one two"));
  EXPECT_EQ(written.size, 7u);
  EXPECT_FALSE(store.has(Content::blob, written.digest));
  ASSERT_TRUE(store.publish(std::move(written.file), Content::blob, written.digest));
  EXPECT_EQ(*store.read_blob(written.digest, 100), "one two");
  EXPECT_EQ(files_in(directory / "tmp"), 0u);
  EXPECT_EQ(*store.list(Content::blob), std::vector{written.digest});
  EXPECT_GT(*store.remove(Content::blob, written.digest), 0u);
  EXPECT_EQ(*store.remove(Content::blob, written.digest), 0u);
}

TEST(ContentStore, ForgetsWhatIsNotPublished) {
  TestDirectory directory;
  const auto store = *ContentStore::open(directory.path());
  {
    auto file = *store.temporary();
  }
  EXPECT_EQ(files_in(directory / "tmp"), 0u);
}

TEST(ContentStore, FindsADamagedBlob) {
  TestDirectory directory;
  const auto store = *ContentStore::open(directory.path());
  const auto digest = *store.add_blob("content");
  std::filesystem::permissions(store.path(Content::blob, digest),
                               std::filesystem::perms::owner_all);
  const auto fd = *open_file(store.path(Content::blob, digest), O_WRONLY);
  ASSERT_TRUE(write_all(fd.get(), bytes("CONTENT")));
  const auto read = store.read_blob(digest, 100);
  ASSERT_FALSE(read);
  EXPECT_NE(read.error().message().find("digest mismatch"), std::string::npos);
}

// Root's is /var/lib/vmm whatever XDG says.
TEST(Store, IsWhereTheUserKeepsData) {
  const pid_t child = ::fork();
  if (child == 0) {
    constexpr uid_t kNobody = 65534;
    if (::geteuid() == 0 && ::seteuid(kNobody) < 0) ::_exit(1);
    ::unsetenv("VMM_ROOT");
    ::setenv("HOME", "/x/home", 1);
    ::setenv("XDG_DATA_HOME", "/x/data", 1);
    if (default_root().value_or("") != "/x/data/vmm") ::_exit(2);
    ::setenv("XDG_DATA_HOME", "relative", 1);
    if (default_root().value_or("") != "/x/home/.local/share/vmm") ::_exit(3);
    ::setenv("HOME", "relative", 1);
    ::_exit(default_root() ? 4 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "step " << WEXITSTATUS(status);
}

TEST(Store, IsItsOwners) {
  TestDirectory directory;
  ASSERT_TRUE(Store::open(directory / "a/root"));
  EXPECT_EQ(std::filesystem::status(directory / "a/root").permissions(),
            std::filesystem::perms::owner_all);
}

TEST(Store, RefusesALaterVersion) {
  TestDirectory directory;
  {
    auto store = *Store::open(directory.path());
    ASSERT_TRUE(store.database().execute("PRAGMA user_version = 999"));
  }
  const auto store = Store::open(directory.path());
  ASSERT_FALSE(store);
  EXPECT_NE(store.error().message().find("version 999"), std::string::npos);
}

// What was kept before containers had snapshots is there afterwards.
TEST(Store, TakesAnEarlierVersionAlong) {
  TestDirectory directory;
  {
    auto store = *Store::open(directory.path());
    ASSERT_TRUE(store.database().execute(
        "DROP INDEX container_of_snapshot; ALTER TABLE container DROP COLUMN snapshot;"
        "DROP TABLE snapshot; PRAGMA user_version = 2;"
        "INSERT INTO image VALUES ('i', 'm', 0, 'linux', 'amd64');"
        "INSERT INTO container (id, name, image, image_name, created, state) "
        "VALUES ('c', 'web', 'i', 'busybox', 1, 'exited');"));
  }
  auto store = Store::open(directory.path());
  ASSERT_TRUE(store) << store.error().message();
  auto row = *store->database().prepare("SELECT name, snapshot IS NULL FROM container");
  ASSERT_TRUE(*row.step());
  EXPECT_EQ(row.text(0), "web");
  EXPECT_EQ(row.number(1), 1);
  ASSERT_TRUE(store->database().execute(
      "INSERT INTO snapshot VALUES ('s', 'kept', 'i', 'busybox', 'web', 1);"
      "UPDATE container SET snapshot = 's'"));
  EXPECT_FALSE(store->database().execute("DELETE FROM snapshot")) << "a container is made of it";
}

TEST(Store, RollsBackWhatIsNotCommitted) {
  TestDirectory directory;
  auto store = *Store::open(directory.path());
  {
    Transaction change(store.database());
    ASSERT_TRUE(change.begin());
    ASSERT_TRUE(store.database().execute("INSERT INTO layer VALUES ('a', 1)"));
  }
  auto row = *store.database().prepare("SELECT count(*) FROM layer");
  ASSERT_TRUE(*row.step());
  EXPECT_EQ(row.number(0), 0);
}

TEST(Store, CollectsWhatNoRowNames) {
  TestDirectory directory;
  auto store = *Store::open(directory.path());
  const auto digest = *store.content().add_blob("garbage");
  const auto kept = *store.content().add_blob("{}");
  ASSERT_TRUE(store.database().execute(
      fmt::format("INSERT INTO image VALUES ('{}', 'x', 0, 'linux', 'amd64')", kept.text())));
  EXPECT_GT(*store.collect_garbage(), 0u);
  EXPECT_FALSE(store.content().has(Content::blob, digest));
  EXPECT_TRUE(store.content().has(Content::blob, kept));
}

// Another command is about to turn the new database into one with a log.
TEST(Store, WaitsForTheOneThatMakesIt) {
  TestDirectory directory;
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open((directory / "store.db").c_str(), &other), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
  auto opened = std::async(std::launch::async, [&] { return Store::open(directory.path()); });
  EXPECT_EQ(opened.wait_for(std::chrono::milliseconds(200)), std::future_status::timeout);
  EXPECT_EQ(sqlite3_exec(other, "ROLLBACK", nullptr, nullptr, nullptr), SQLITE_OK);
  const auto store = opened.get();
  EXPECT_TRUE(store) << store.error().message();
  EXPECT_EQ(sqlite3_close(other), SQLITE_OK);
}

TEST(Store, CollectsNothingWhileAnotherUsesIt) {
  TestDirectory directory;
  auto store = *Store::open(directory.path());
  const auto other = *Store::open(directory.path());
  const auto digest = *other.content().add_blob("not named yet");
  EXPECT_EQ(*store.collect_garbage(), 0u);
  EXPECT_TRUE(store.content().has(Content::blob, digest));
}

// A child that is killed in the middle of a write and of a transaction: the next to open the store
// finds neither.
TEST(Store, IsInOrderAfterAKill) {
  TestDirectory directory;
  std::array<int, 2> ready{};
  ASSERT_EQ(::pipe2(ready.data(), O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    auto store = *Store::open(directory.path());
    auto file = *store.content().temporary();
    Transaction change(store.database());
    const bool begun =
        change.begin() && store.database().execute("INSERT INTO layer VALUES ('a', 1)");
    if (begun && ::write(ready[1], "x", 1) == 1) ::pause();
    ::_exit(1);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_EQ(files_in(directory / "tmp"), 1u);
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  ::close(ready[0]);
  ::close(ready[1]);
  auto store = *Store::open(directory.path());
  EXPECT_EQ(files_in(directory / "tmp"), 0u);
  auto row = *store.database().prepare("SELECT count(*) FROM layer");
  ASSERT_TRUE(*row.step());
  EXPECT_EQ(row.number(0), 0);
}

}  // namespace
}  // namespace vmm::engine
