#include "src/engine/runtime/container_snapshot.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "src/engine/image/remove.h"
#include "src/engine/runtime/container_machine.h"
#include "src/engine/runtime/machine_files.h"
#include "src/engine/runtime/monitor.h"
#include "src/engine/runtime/names.h"
#include "src/engine/store/test_directory.h"

namespace vmm::engine {
namespace {

namespace fs = std::filesystem;

// Rows and files; machines are in tests/vm/containers.py.
class ContainerSnapshotsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = Store::open(folder_ / "store");
    ASSERT_TRUE(opened) << opened.error().message();
    store_ = std::make_unique<Store>(std::move(*opened));
    image_.id = Digest::of("image");
    image_.manifest = Digest::of("manifest");
    image_.os = "linux";
    image_.architecture = "amd64";
    ASSERT_TRUE(Catalog(*store_).add(image_, {*parse_reference("busybox:latest")}));
  }

  ContainerSnapshots snapshots() { return ContainerSnapshots(*store_); }
  Containers containers() { return Containers(*store_); }

  // As ContainerSnapshots::create(), without a machine.
  ContainerSnapshot have(const std::string& name, std::int64_t created = 1) {
    const ContainerSnapshot snapshot{new_container_id(), name,  image_.id,
                                     "busybox",          "web", created};
    const auto directory = snapshots().directory(snapshot.id);
    fs::create_directories(directory + "/machine");
    ContainerSpec spec;
    spec.command = {"sh"};
    EXPECT_TRUE(write_spec(directory, spec));
    auto row = store_->database().prepare("INSERT INTO snapshot VALUES (?, ?, ?, ?, ?, ?)");
    EXPECT_TRUE(row->bind(1, snapshot.id)
                    .bind(2, name)
                    .bind(3, image_.id.text())
                    .bind(4, "busybox")
                    .bind(5, "web")
                    .bind(6, created)
                    .run());
    return snapshot;
  }
  Container make(const ContainerSnapshot& snapshot, const std::string& name) {
    auto made = containers().create(
        {name, snapshot.image, "busybox", *snapshots().spec(snapshot), snapshot.id});
    EXPECT_TRUE(made) << made.error().message();
    return *made;
  }
  bool is_there(const ContainerSnapshot& snapshot) {
    return fs::exists(snapshots().directory(snapshot.id));
  }

  TestDirectory folder_;
  std::unique_ptr<Store> store_;
  Image image_;
};

TEST_F(ContainerSnapshotsTest, AreListedByName) {
  const auto first = have("first", 1), second = have("second", 2);
  (void)have("", 3);
  const auto all = snapshots().list();
  ASSERT_TRUE(all) << all.error().message();
  ASSERT_EQ(all->size(), 2u);
  EXPECT_EQ((*all)[0].id, second.id);
  EXPECT_EQ((*all)[1].name, "first");
  EXPECT_EQ(snapshots().find("first")->id, first.id);
  EXPECT_EQ(snapshots().find("third").error().message(), "No such snapshot: third");
  EXPECT_FALSE(snapshots().find("")) << "that of a fork";
}

TEST_F(ContainerSnapshotsTest, StaysWhileContainersAreMadeOfIt) {
  const auto snapshot = have("base");
  const auto one = make(snapshot, "one");
  EXPECT_EQ(containers().find("one")->snapshot, snapshot.id);
  EXPECT_EQ(snapshots().remove(snapshot).error().message(),
            "conflict: unable to remove snapshot \"base\" - container " + one.short_id() +
                " is made of it");
  ASSERT_TRUE(containers().remove(one.id));
  EXPECT_TRUE(is_there(snapshot)) << "it has a name";
  ASSERT_TRUE(snapshots().remove(snapshot));
  EXPECT_FALSE(is_there(snapshot));
}

TEST_F(ContainerSnapshotsTest, OneOfAForkGoesWithTheLastContainer) {
  const auto snapshot = have("");
  const auto one = make(snapshot, "one"), two = make(snapshot, "two");
  ASSERT_TRUE(containers().remove(one.id));
  EXPECT_TRUE(is_there(snapshot));
  ASSERT_TRUE(containers().remove(two.id));
  EXPECT_FALSE(is_there(snapshot));
}

// The command that makes more containers of it has its lock; it is the one that releases it last.
TEST_F(ContainerSnapshotsTest, OneOfAForkStaysWhileMoreAreMadeOfIt) {
  const auto snapshot = have("");
  const auto one = make(snapshot, "one");
  auto lock = ContainerLock::take(snapshots().directory(snapshot.id));
  ASSERT_TRUE(lock && *lock);
  ASSERT_TRUE(containers().remove(one.id));
  EXPECT_TRUE(is_there(snapshot));
  const auto two = make(snapshot, "two");
  lock->reset();
  ASSERT_TRUE(snapshots().release(snapshot.id));
  EXPECT_TRUE(is_there(snapshot)) << "it has one";
  ASSERT_TRUE(containers().remove(two.id));
  EXPECT_FALSE(is_there(snapshot));
}

TEST_F(ContainerSnapshotsTest, WhatKilledCommandsLeftGoes) {
  const auto named = have("named");
  const auto fork = have("");  // no container was made of it
  const auto used = have("");
  (void)make(used, "one");
  const auto unfinished = snapshots().directory(new_container_id());
  const auto being_made = snapshots().directory(new_container_id());
  for (const auto& path : {unfinished, being_made}) fs::create_directories(path);
  const auto lock = ContainerLock::take(being_made);
  ASSERT_TRUE(lock && *lock);
  ASSERT_TRUE(snapshots().remove_orphans());
  EXPECT_TRUE(is_there(named));
  EXPECT_TRUE(is_there(used));
  EXPECT_FALSE(is_there(fork));
  EXPECT_FALSE(fs::exists(unfinished));
  EXPECT_TRUE(fs::exists(being_made));
}

TEST_F(ContainerSnapshotsTest, ItsImageIsInUse) {
  const auto snapshot = have("base");
  EXPECT_EQ(
      remove_image(*store_, "busybox", Force::no).error().message(),
      "conflict: unable to remove repository reference \"busybox\" (must be forced) - image is "
      "being used by snapshot base");
  EXPECT_TRUE(*is_in_use(*store_, image_.id));
  ASSERT_TRUE(remove_image(*store_, "busybox", Force::yes)) << "its name";
  EXPECT_TRUE(*Catalog(*store_).by_id(image_.id)) << "and no more";
  ASSERT_TRUE(snapshots().remove(snapshot));
  EXPECT_FALSE(*is_in_use(*store_, image_.id));
}

TEST_F(ContainerSnapshotsTest, IsRefusedOfWhatDoesNotRun) {
  const auto made = containers().create({"web", image_.id, "busybox", ContainerSpec()});
  ASSERT_TRUE(made);
  const auto refused = [&](const Container& container) {
    return snapshots().create(container, "name").error().message();
  };
  EXPECT_EQ(refused(*made), "container " + made->id + " is not running");
  auto paused = *made;
  paused.state = ContainerState::paused;
  EXPECT_EQ(refused(paused), "Container web is paused. Unpause the container before it is saved");
  auto lost = *made;
  lost.state = ContainerState::running;  // but there is no machine
  EXPECT_TRUE(refused(lost).contains("cannot connect to")) << refused(lost);
  EXPECT_FALSE(snapshots().create(lost, "-x"));
  EXPECT_TRUE(fs::is_empty(snapshots().directory(""))) << "nothing is left";
}

// A start that failed may have written to the layer: it is not of the snapshot's moment any more.
TEST_F(ContainerSnapshotsTest, TheFirstStartBeginsWithItsFiles) {
  const auto merged = store_->content().path(Content::merged, image_.id);
  fs::create_directories(fs::path(merged).parent_path());
  std::ofstream(merged) << std::string(512, 'm');
  auto one = make(have("base"), "one");
  EXPECT_TRUE(one.goes_on());
  const auto layer = containers().directory(one.id) + "/writable.qcow2";
  std::ofstream(layer) << "written";
  ASSERT_TRUE(make_disks(*store_, one));
  EXPECT_FALSE(fs::exists(layer));
  const auto words = restore_words(one, "/snapshot");
  EXPECT_NE(std::ranges::find(words, "writable.qcow2"), words.end());
  ASSERT_TRUE(containers().set_running(one.id));
  one = *containers().find("one");
  EXPECT_FALSE(one.goes_on());
  std::ofstream(layer) << "written";
  ASSERT_TRUE(make_disks(*store_, one));
  EXPECT_TRUE(fs::exists(layer)) << "now it is the container's";
  const auto later = boot_words(one, MachineFiles{"kernel", "initramfs", ""});
  EXPECT_NE(std::ranges::find(later, "writable.qcow2,format=qcow2"), later.end());
}

}  // namespace
}  // namespace vmm::engine
