#include "src/cli/config/restored_machine.h"

#include "src/hypervisor/snapshot/export.h"
#include "src/hypervisor/snapshot/import.h"
#include "src/hypervisor/snapshot/snapshot_fixture.h"

namespace vmm::config {
namespace {

class RestoredMachineTest : public snapshot::SnapshotTest {
 protected:
  Result<MachineConfig> restored(const std::string& name,
                                 const std::vector<std::string>& disk_copies = {}) const {
    const auto source = TRY(snapshot::open_source(path(name)));
    return restored_config(*source, TRY(restored_options(*source, {})), disk_copies);
  }
  std::string why_not(const std::string& name, const std::vector<std::string>& disk_copies) const {
    const auto config = restored(name, disk_copies);
    return config ? "" : config.error().message();
  }
};

TEST_F(RestoredMachineTest, OnlyWritableCopiesAreScratchDisks) {
  config_ = R"({"kernel": "vmlinux", "mem": "64M", "disk": ["data.img,ro", "root.img"]})";
  read_only_disk_ = path("data.img");
  std::ofstream(read_only_disk_) << std::string(512, 'r');
  ASSERT_TRUE(save("one"));
  const auto referred = restored("one");
  ASSERT_TRUE(referred) << referred.error().message();
  EXPECT_EQ(referred->disks.at(0).path, read_only_disk_);
  EXPECT_FALSE(referred->disks.at(0).scratch);
  EXPECT_EQ(referred->disks.at(1).path, path("one/disk0.img"));
  EXPECT_TRUE(referred->disks.at(1).scratch);
  // Moved, it has a file of both.
  const auto reader = snapshot::Reader::open(path("one"));
  ASSERT_TRUE(reader);
  ASSERT_TRUE(snapshot::export_snapshot(**reader, path("one.vmm"), {}));
  ASSERT_TRUE(snapshot::import_archive(path("one.vmm"), path("two"), {}));
  const auto moved = restored("two");
  ASSERT_TRUE(moved) << moved.error().message();
  EXPECT_EQ(moved->disks.at(0).path, path("two/blk1.img"));
  EXPECT_TRUE(moved->disks.at(0).read_only);
  EXPECT_FALSE(moved->disks.at(0).scratch);
  EXPECT_TRUE(moved->disks.at(1).scratch);
}

// Before there was a key for it, every machine had the device.
TEST_F(RestoredMachineTest, ASnapshotWithRandomNumbersKeepsThem) {
  config_ = R"({"kernel": "vmlinux", "mem": "64M", "disk": "root.img"})";
  ASSERT_TRUE(save("without"));
  with_rng_ = true;
  ASSERT_TRUE(save("with"));
  const auto without = restored("without");
  const auto with = restored("with");
  ASSERT_TRUE(without) << without.error().message();
  ASSERT_TRUE(with) << with.error().message();
  EXPECT_FALSE(without->rng);
  EXPECT_TRUE(with->rng);
}

TEST_F(RestoredMachineTest, DevicesThatItLacksAreRefusedByName) {
  config_ = R"({"kernel": "vmlinux", "mem": "64M", "disk": "root.img", "balloon": true})";
  ASSERT_TRUE(save("one"));
  const auto source = snapshot::open_source(path("one"));
  ASSERT_TRUE(source);
  const auto refused = restored_options(**source, {.rng = true});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message(),
            "--rng: the machine in snapshot '" + path("one") + "' has no rng device");
  EXPECT_TRUE(restored_options(**source, {.balloon = true}));
  EXPECT_TRUE(restored_options(**source, {.balloon = false})->balloon)
      << "the guest has it, whatever a configuration file says";
}

TEST_F(RestoredMachineTest, DisksOfAnArchiveAreFilesOfItsOwn) {
  config_ = R"({"kernel": "vmlinux", "mem": "64M", "disk": ["data.img,ro", "root.img"]})";
  read_only_disk_ = path("data.img");
  std::ofstream(read_only_disk_) << std::string(512, 'r');
  ASSERT_TRUE(save("one"));
  const auto reader = snapshot::Reader::open(path("one"));
  ASSERT_TRUE(reader);
  ASSERT_TRUE(snapshot::export_snapshot(**reader, path("one.vmm"), {}));
  const auto archive = snapshot::open_source(path("one.vmm"));
  ASSERT_TRUE(archive) << archive.error().message();
  const auto options = restored_options(**archive, {});
  ASSERT_TRUE(options) << options.error().message();
  const auto config = restored_config(**archive, *options);
  ASSERT_TRUE(config) << config.error().message();
  for (const auto& disk : config->disks) {
    EXPECT_TRUE(disk.path.starts_with("/proc/self/fd/")) << disk.path;
    EXPECT_EQ(disk.format, disk::ImageFormat::raw) << "whatever its first bytes say";
    EXPECT_FALSE(disk.scratch);
  }
  EXPECT_EQ(config->disks.at(0).label, path("one.vmm") + ":blk1");
  EXPECT_TRUE(config->disks.at(0).read_only);
  EXPECT_FALSE(config->disks.at(1).read_only);
}

// A read-only disk that came out of an archive has a file in the snapshots of its machine, too.
TEST_F(RestoredMachineTest, AReadOnlyCopyIsWhatTheManifestSays) {
  config_ = R"({"kernel": "vmlinux", "mem": "64M", "disk": ["root.img,ro,format=raw"]})";
  ASSERT_TRUE(save("one"));
  ASSERT_TRUE(save("two", "one"));
  const auto copied = restored("one"), layer = restored("two");
  ASSERT_TRUE(copied && layer);
  EXPECT_EQ(copied->disks.at(0).format, disk::ImageFormat::raw);
  EXPECT_EQ(layer->disks.at(0).format, disk::ImageFormat::qcow2);
  EXPECT_FALSE(layer->disks.at(0).scratch);
}

TEST_F(RestoredMachineTest, AMachineMayKeepItsOwnCopies) {
  config_ = R"({"kernel": "vmlinux", "mem": "64M", "disk": ["data.img,ro", "root.img"]})";
  read_only_disk_ = path("data.img");
  std::ofstream(read_only_disk_) << std::string(512, 'r');
  ASSERT_TRUE(save("one"));
  const auto config = restored("one", {"mine.qcow2"});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->disks.at(0).layer, "") << "nothing is written to it";
  EXPECT_EQ(config->disks.at(1).layer, "mine.qcow2");
  EXPECT_TRUE(config->disks.at(1).scratch);
  EXPECT_EQ(why_not("one", {"a", "b"}),
            "2 times --disk, but snapshot '" + path("one") + "' has 1 disk of its own");
  EXPECT_NE(why_not("one", {"mine.qcow2,ro"}).find("it is a path alone"), std::string::npos);
  EXPECT_NE(why_not("one", {""}).find("it is a path alone"), std::string::npos);
  const auto reader = snapshot::Reader::open(path("one"));
  ASSERT_TRUE(reader);
  ASSERT_TRUE(snapshot::export_snapshot(**reader, path("one.vmm"), {}));
  EXPECT_NE(why_not("one.vmm", {"mine.qcow2"}).find("vmm snapshot import"), std::string::npos);
}

}  // namespace
}  // namespace vmm::config
