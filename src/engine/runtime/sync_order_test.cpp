// What a power failure finds: this program's own rename() and syncs note the order in which names
// and data reach the disk.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "src/engine/image/install.h"
#include "src/engine/image/layer_fixture.h"
#include "src/engine/runtime/container_machine.h"
#include "src/engine/store/test_directory.h"

namespace {

std::atomic<bool> is_noting = false;  // this program has other tests
std::mutex mutex;                     // guards events
std::vector<std::string> events;      // "sync PATH", "name PATH"

void note(std::string event) {
  const std::lock_guard lock(mutex);
  events.push_back(std::move(event));
}

int note_sync(long call, int fd) {
  if (is_noting) {
    std::error_code error;
    const auto path = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), error);
    note("sync " + path.string());
  }
  return static_cast<int>(::syscall(call, fd));
}

}  // namespace

extern "C" int fsync(int fd) { return note_sync(SYS_fsync, fd); }
extern "C" int fdatasync(int fd) { return note_sync(SYS_fdatasync, fd); }
extern "C" int rename(const char* from, const char* to) noexcept {
  if (is_noting) note(std::string("name ") + to);
  return static_cast<int>(::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

namespace vmm::engine {
namespace {

class SyncOrderTest : public ::testing::Test {
 protected:
  SyncOrderTest() { is_noting = true; }
  ~SyncOrderTest() override { is_noting = false; }
  // These, in this order, whatever is between them.
  void expect_order(const std::vector<std::string>& wanted) {
    auto at = events.begin();
    for (const auto& one : wanted) {
      at = std::find(at, events.end(), one);
      std::string all;
      for (const auto& event : events) all += event + "\n";
      ASSERT_NE(at, events.end()) << one << " is missing, or too late, in\n" << all;
      ++at;
    }
  }
  std::string path(const std::string& name) const { return store_.root() + "/" + name; }

  TestDirectory folder_;
  const std::string root_ = std::filesystem::canonical(folder_.path()) / "store";
  Store store_ = *Store::open(root_);
};

TEST_F(SyncOrderTest, AnImageIsOnTheDiskBeforeItsRow) {
  const auto& content = store_.content();
  const auto archive = archive_of({file("a", "1")});
  auto blob = *BlobWriter::create(content);
  std::vector<std::byte> bytes(1u << 20);
  FileSource source(archive.get());
  while (const auto n = *source.read(bytes)) {
    ASSERT_TRUE(blob.write(std::span(bytes).first(n)));
  }
  const auto size = blob.size();
  auto written = blob.finish();
  ASSERT_TRUE(content.publish(std::move(written.file), Content::blob, written.digest));
  const auto layer = written.digest.text();
  const auto config = fmt::format(
      R"({{"architecture": "amd64", "os": "linux", "rootfs": {{"type": "layers", "diff_ids": ["{}"]}}}})",
      layer);
  const auto manifest = fmt::format(
      R"({{"schemaVersion": 2, "config": {{"mediaType": "x", "digest": "{}", "size": {}}}, "layers": [{{"mediaType": "x", "digest": "{}", "size": {}}}]}})",
      content.add_blob(config)->text(), config.size(), layer, size);
  const auto named = *content.add_blob(manifest);
  events.clear();
  const auto image = install_image(store_, named, {});
  ASSERT_TRUE(image) << image.error().message();
  for (const auto& [folder, digest] :
       {std::pair{"layers", written.digest}, std::pair{"merged", image->id}}) {
    const auto names = path(folder) + "/sha256";
    expect_order(
        {"name " + names + "/" + digest.hex(), "sync " + names, "sync " + path("store.db-wal")});
  }
  // Of what another process has published as well.
  expect_order({"sync " + path("blobs/sha256"), "sync " + path("store.db-wal")});
}

TEST_F(SyncOrderTest, AContainerIsOnTheDiskBeforeItsRows) {
  Image image{Digest::of("image"), Digest::of("manifest"), 0, "linux", "amd64", {}};
  ASSERT_TRUE(Catalog(store_).add(image, {}));
  std::filesystem::create_directories(path("merged/sha256"));
  std::ofstream(store_.content().path(Content::merged, image.id)) << std::string(512, 'm');
  std::filesystem::create_directories(path("machine"));
  std::ofstream(path("machine/writable-") + kWritableSize + ".img") << "formatted";
  events.clear();
  Containers containers(store_);
  ContainerSpec spec;
  spec.command = {"sh"};
  const auto made = containers.create({"web", image.id, "busybox", spec});
  ASSERT_TRUE(made) << made.error().message();
  const auto directory = containers.directory(made->id);
  expect_order({"sync " + root_, "sync " + directory + "/spec", "sync " + directory,
                "sync " + path("containers"), "sync " + path("store.db-wal")});
  events.clear();
  ASSERT_TRUE(make_disks(store_, *made));
  expect_order(
      {"sync " + directory + "/writable.img.partial", "name " + directory + "/writable.img"});
}

}  // namespace
}  // namespace vmm::engine
