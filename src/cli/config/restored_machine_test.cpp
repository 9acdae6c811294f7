#include "src/cli/config/restored_machine.h"

#include "src/hypervisor/snapshot/export.h"
#include "src/hypervisor/snapshot/import.h"
#include "src/hypervisor/snapshot/snapshot_fixture.h"

namespace vmm::config {
namespace {

class RestoredMachineTest : public snapshot::SnapshotTest {
 protected:
  // Options: keys and words.
  using Words = std::vector<std::pair<std::string, std::string>>;
  static Words disks(const std::vector<std::string>& words) {
    Words options;
    for (const auto& word : words) options.emplace_back("disk", word);
    return options;
  }
  Result<RestoredMachine> machine(const std::string& name, const Words& options = {}) const {
    GivenMachine given;
    for (const auto& [key, word] : options) TRY(take_option(given, key, word));
    return restored_machine(*TRY(snapshot::open_source(path(name))), given);
  }
  Result<MachineConfig> restored(const std::string& name,
                                 const std::vector<std::string>& words = {}) const {
    return TRY(machine(name, disks(words))).config;
  }
  std::string why_not(const std::string& name, const Words& options) const {
    const auto restored = machine(name, options);
    return restored ? "" : restored.error().message();
  }
  std::string why_not_disks(const std::string& name, const std::vector<std::string>& words) const {
    return why_not(name, disks(words));
  }
  // A snapshot of a machine with a disk that is only referred to, and one of its own.
  void save_with_read_only_disk(const std::string& keys = "") {
    config_ = R"({"kernel": "vmlinux", "mem": "64M", "disk": ["data.img,ro)" + keys +
              R"(", "root.img"]})";
    read_only_disk_ = path("data.img");
    std::ofstream(read_only_disk_) << std::string(512, 'r');
    ASSERT_TRUE(save("one"));
  }
  std::string named(const std::string& more = "") const { return "blk1=" + read_only_disk_ + more; }
};

TEST_F(RestoredMachineTest, OnlyWritableCopiesAreScratchDisks) {
  save_with_read_only_disk();
  const auto referred = restored("one", {named(",format=raw")});
  ASSERT_TRUE(referred) << referred.error().message();
  EXPECT_EQ(referred->disks.at(0).path, read_only_disk_);
  EXPECT_FALSE(referred->disks.at(0).scratch);
  EXPECT_EQ(referred->disks.at(1).path, path("one/blk0.img"));
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

constexpr const char* kForeign = R"({
  "kernel": "/secret/kernel", "initrd": "/secret/initrd", "append": "quiet", "mem": "64M",
  "name": "theirs", "control": "/secret/control", "serial": "file:/secret/console",
  "disk": "root.img", "vsock": "/secret/vsock,cid=9",
  "net": ["user,hostfwd=tcp:0.0.0.0:22-:22,restrict=on,loopback=on,mac=52:54:00:12:34:56",
          "tap=secret0,queues=2,mtu=9000,vhost=on", "fd=7:8:9", "socket=/secret/net"]})";

TEST_F(RestoredMachineTest, NothingOfTheHostIsOpenedThatOnlyTheManifestNames) {
  config_ = kForeign;
  ASSERT_TRUE(save("one"));
  const auto restored = machine("one");
  ASSERT_TRUE(restored) << restored.error().message();
  const auto& config = restored->config;
  MachineConfig wanted;
  wanted.name = "theirs";
  wanted.append = "quiet";
  wanted.memory = 64u << 20;
  wanted.disks = config.disks;  // see the other tests
  wanted.nets.resize(4);
  wanted.nets[0].kind = virtio::NetKind::user;
  wanted.nets[0].user.restricted = true;
  wanted.nets[0].user.host_loopback = user_net::Config().host_loopback;
  for (std::size_t i = 1; i < 4; ++i) wanted.nets[i].kind = virtio::NetKind::unplugged;
  wanted.nets[1].queues = 2;
  wanted.nets[1].mtu = 9000;
  wanted.nets[2].queues = 3;
  wanted.vsock = virtio::VsockConfig{.cid = 9, .path = ""};
  EXPECT_EQ(config, wanted);
  EXPECT_EQ(config.serial.kind, chardev::Kind::stdio);
  EXPECT_EQ(restored->unconnected,
            (std::vector<std::string>{"published ports and host loopback of net0 (--net)",
                                      "net1 to tap=secret0 (--net)", "net2 to fd=7:8:9 (--net)",
                                      "net3 to socket=/secret/net (--net)",
                                      "vsock to '/secret/vsock' (--vsock)"}));
  // Its own snapshots, and who restores or forks them, find no name of a stranger.
  const auto text = to_json_text(config);
  ASSERT_TRUE(text) << text.error().message();
  EXPECT_EQ(text->find("secret"), std::string::npos) << *text;
  GivenMachine again;
  ASSERT_TRUE(take_text(again, *text, "test"));
  auto same = to_machine(again, Kernel::optional);
  ASSERT_TRUE(same) << same.error().message();
  same->disks = config.disks;
  EXPECT_EQ(*same, config);
}

TEST_F(RestoredMachineTest, WhatThePersonNamesIsConnected) {
  config_ = kForeign;
  ASSERT_TRUE(save("one"));
  const auto restored = machine("one", {{"kernel", "mine"},
                                        {"initrd", "my-initrd"},
                                        {"name", "copy"},
                                        {"serial", "none"},
                                        {"control", "my-control"},
                                        {"vsock", "my-vsock,cid=9"},
                                        {"net", "user,hostfwd=tcp::8080-:80"},
                                        {"net", "tap=t0,queues=2"},
                                        {"net", "unplugged,queues=3"},
                                        {"net", "unplugged"}});
  ASSERT_TRUE(restored) << restored.error().message();
  const auto& config = restored->config;
  EXPECT_EQ(config.kernel, "mine");
  EXPECT_EQ(config.initrd, "my-initrd");
  EXPECT_EQ(config.append, "quiet");
  EXPECT_EQ(config.name, "copy");
  EXPECT_EQ(config.serial.kind, chardev::Kind::none);
  EXPECT_EQ(config.control, "my-control");
  EXPECT_EQ(config.vsock->path, "my-vsock");
  EXPECT_EQ(config.nets.at(0).user.forwards.size(), 1u);
  EXPECT_EQ(config.nets.at(1).tap, "t0");
  EXPECT_TRUE(restored->unconnected.empty());
  EXPECT_EQ(why_not("one", {{"initrd", "my-initrd"}}),
            "--initrd goes with --kernel: what a restored guest boots when it resets");
  EXPECT_NE(why_not("one", {{"append", "x"}}).find("--append does not go"), std::string::npos);
  EXPECT_NE(why_not("one", {{"mem", "64M"}}).find("--mem does not go"), std::string::npos);
  EXPECT_NE(why_not("one", {{"net", "user"}}).find("has 4 network cards"), std::string::npos);
}

TEST_F(RestoredMachineTest, NoneIsNoCard) {
  config_ = R"({"kernel": "vmlinux", "mem": "64M", "disk": "root.img", "net": ["none", "user"]})";
  ASSERT_TRUE(save("one"));
  const auto restored = machine("one");
  ASSERT_TRUE(restored) << restored.error().message();
  ASSERT_EQ(restored->config.nets.size(), 1u);
  EXPECT_EQ(restored->config.nets[0].kind, virtio::NetKind::user);
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
  const auto lacks = [&](const std::string& device) {
    return fmt::format("--{}: the machine in snapshot '{}' has no {} device", device, path("one"),
                       device);
  };
  EXPECT_EQ(why_not("one", {{"rng", "on"}}), lacks("rng"));
  EXPECT_EQ(why_not("one", {{"vsock", "/v"}}), lacks("vsock"));
  EXPECT_EQ(why_not("one", {{"balloon", "on"}}), "");
  EXPECT_TRUE(machine("one", {{"balloon", "off"}})->config.balloon)
      << "the guest has it, whatever a configuration file says";
}

TEST_F(RestoredMachineTest, DisksOfAnArchiveAreFilesOfItsOwn) {
  save_with_read_only_disk();
  const auto reader = snapshot::Reader::open(path("one"));
  ASSERT_TRUE(reader);
  ASSERT_TRUE(snapshot::export_snapshot(**reader, path("one.vmm"), {}));
  const auto archive = snapshot::open_source(path("one.vmm"));
  ASSERT_TRUE(archive) << archive.error().message();
  const auto made = restored_machine(**archive, {});
  ASSERT_TRUE(made) << made.error().message();
  const auto& disks = made->config.disks;
  for (const auto& disk : disks) {
    EXPECT_TRUE(disk.path.starts_with("/proc/self/fd/")) << disk.path;
    EXPECT_EQ(disk.format, disk::ImageFormat::raw) << "whatever its first bytes say";
    EXPECT_FALSE(disk.scratch);
  }
  EXPECT_EQ(disks.at(0).label, path("one.vmm") + ":blk1");
  EXPECT_TRUE(disks.at(0).read_only);
  EXPECT_FALSE(disks.at(1).read_only);
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
  save_with_read_only_disk(",format=raw");
  const auto config = restored("one", {"mine.qcow2", named()});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->disks.at(0).layer, "") << "nothing is written to it";
  EXPECT_EQ(config->disks.at(1).layer, "mine.qcow2");
  EXPECT_TRUE(config->disks.at(1).scratch);
  EXPECT_EQ(why_not_disks("one", {"a", "b", named()}),
            "2 times --disk, but snapshot '" + path("one") + "' has 1 disk of its own");
  EXPECT_NE(why_not_disks("one", {"mine.qcow2,ro"}).find("it is a path alone"), std::string::npos);
  EXPECT_NE(why_not_disks("one", {""}).find("a path is missing"), std::string::npos);
  EXPECT_NE(why_not_disks("one", {"blk1="}).find("--disk blk1=: a path is missing"),
            std::string::npos);
  const auto reader = snapshot::Reader::open(path("one"));
  ASSERT_TRUE(reader);
  ASSERT_TRUE(snapshot::export_snapshot(**reader, path("one.vmm"), {}));
  EXPECT_NE(why_not_disks("one.vmm", {"mine.qcow2"}).find("vmm snapshot import"),
            std::string::npos);
}

TEST_F(RestoredMachineTest, AReadOnlyDiskIsOneThatThePersonNames) {
  save_with_read_only_disk();
  EXPECT_EQ(why_not_disks("one", {}),
            fmt::format("snapshot '{}' has no copy of its read-only disk '{}': say which file it "
                        "is with --disk blk1=PATH,format=raw or ,format=qcow2",
                        path("one"), read_only_disk_));
  EXPECT_NE(why_not_disks("one", {named()}).find("what the file is must be said"),
            std::string::npos)
      << "it is not found out by its first bytes";
  const auto restored = machine("one", disks({named(",format=qcow2")}));
  ASSERT_TRUE(restored) << restored.error().message();
  EXPECT_EQ(restored->config.disks.at(0).format, disk::ImageFormat::qcow2);
  EXPECT_TRUE(restored->config.disks.at(0).read_only);
  EXPECT_EQ(restored->config.disks.at(0).path, read_only_disk_);
  const auto part_of_refusal = [&](const std::string& disk, const char* part) {
    const auto why = why_not_disks("one", {disk});
    EXPECT_NE(why.find(part), std::string::npos) << why;
  };
  part_of_refusal(named(",format=raw,serial=x"), "only format=raw or format=qcow2");
  part_of_refusal("blk1=" + path("none") + ",format=raw", "No such file");
  std::ofstream(path("other")) << std::string(512, 'r');
  const auto long_ago = std::filesystem::file_time_type::clock::now() - std::chrono::hours(1);
  std::filesystem::last_write_time(path("other"), long_ago);
  part_of_refusal("blk1=" + path("other") + ",format=raw", "was changed since");
  EXPECT_NE(why_not_disks("one", {named(",format=raw"), "blk0=/x,format=raw"}).find("has a copy"),
            std::string::npos);
  EXPECT_NE(why_not_disks("one", {named(",format=raw"), "blk7=/x,format=raw"}).find("no such disk"),
            std::string::npos);
  EXPECT_NE(why_not_disks("one", {named(",format=raw"), named(",format=raw")}).find("twice"),
            std::string::npos);
}

TEST_F(RestoredMachineTest, AReadOnlyDiskMayHaveMoved) {
  save_with_read_only_disk();
  std::filesystem::rename(read_only_disk_, path("moved.img"));
  EXPECT_EQ(why_not_disks("one", {"blk1=" + path("moved.img") + ",format=raw"}), "");
}

// A manifest that says of a disk without a copy that the guest writes to it.
TEST_F(RestoredMachineTest, ADiskThatIsReferredToIsNeverWrittenTo) {
  config_ = R"({"kernel": "vmlinux", "mem": "64M", "disk": ["data.img,scratch", "root.img"]})";
  read_only_disk_ = path("data.img");
  std::ofstream(read_only_disk_) << std::string(512, 'r');
  ASSERT_TRUE(save("one"));
  const auto config = restored("one", {named(",format=raw")});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_TRUE(config->disks.at(0).read_only);
  EXPECT_FALSE(config->disks.at(0).scratch);
}

TEST_F(RestoredMachineTest, ItsOwnerMayPassAllNamesOn) {
  config_ = R"({"kernel": "vmlinux", "initrd": "initrd", "mem": "64M",
                "net": ["none", "user,hostfwd=tcp::1-:2,loopback=on", "tap=t0,queues=2"],
                "disk": ["data.img,ro", "root.img"]})";
  read_only_disk_ = path("data,img");
  std::ofstream(read_only_disk_) << std::string(512, 'r');
  ASSERT_TRUE(save("one"));
  const auto source = snapshot::open_source(path("one"));
  ASSERT_TRUE(source);
  const auto own = own_connections(**source);
  ASSERT_TRUE(own) << own.error().message();
  MachineConfig wanted;
  wanted.disks = {{.id = "blk1", .path = path("data,img"), .format = disk::ImageFormat::raw}};
  wanted.nets.resize(2);
  wanted.nets[0].kind = virtio::NetKind::user;
  wanted.nets[0].user.host_loopback = true;
  wanted.nets[1].kind = virtio::NetKind::unplugged;
  wanted.nets[1].queues = 2;
  EXPECT_EQ(*own, wanted);
  // As a fork passes it on.
  GivenMachine given;
  ASSERT_TRUE(take_text(given, to_json_text(*own).value(), "test"));
  const auto copy = restored_machine(**source, given);
  ASSERT_TRUE(copy) << copy.error().message();
  EXPECT_EQ(copy->config.nets, wanted.nets);
  EXPECT_EQ(copy->config.disks.at(0).path, path("data,img"));
  EXPECT_TRUE(copy->unconnected.empty());
}

// ---- persistent memory

TEST_F(RestoredMachineTest, PersistentMemoryIsNamedAgain) {
  config_ = R"({"mem": "64M", "disk": "root.img",
                "pmem": ["/secret/image.erofs", "size=4M", "/secret/list.vmdk,format=vmdk"]})";
  ASSERT_TRUE(save("one"));
  EXPECT_EQ(why_not("one", {}), "snapshot '" + path("one") +
                                    "' has no copy of pmem0 '/secret/image.erofs': say which " +
                                    "file it is with --pmem PATH");
  EXPECT_EQ(why_not("one", {{"pmem", "/a"}}),
            "1 times --pmem, but the machine in snapshot '" + path("one") + "' has 3 of them");
  EXPECT_EQ(why_not("one", {{"pmem", "/a"}, {"pmem", "/b,size=2M"}, {"pmem", "/c"}}),
            "pmem '/b': size=2M is not the device's, which stays: 4M");
  const auto restored =
      machine("one", {{"pmem", "/a"}, {"pmem", "/b"}, {"pmem", "/c,format=vmdk"}});
  ASSERT_TRUE(restored) << restored.error().message();
  const std::vector<virtio::PmemConfig> wanted = {
      {.path = "/a"},
      {.path = "/b", .slot_size = 4u << 20},
      {.path = "/c", .format = disk::ImageFormat::vmdk}};
  EXPECT_EQ(restored->config.pmems, wanted);
  const auto source = snapshot::open_source(path("one"));
  ASSERT_TRUE(source);
  const auto own = own_connections(**source);
  ASSERT_TRUE(own) << own.error().message();
  ASSERT_EQ(own->pmems.size(), 3u);
  EXPECT_EQ(own->pmems[2],
            (virtio::PmemConfig{.path = "/secret/list.vmdk", .format = disk::ImageFormat::vmdk}));
}

TEST_F(RestoredMachineTest, PersistentMemoryOfNothingIsRefused) {
  config_ = R"({"mem": "64M", "disk": "root.img", "pmem": [{}]})";
  ASSERT_TRUE(save("one"));
  EXPECT_EQ(why_not("one", {}), "a path is missing: --pmem PATH, or size=SIZE for a slot");
}

// ---- slots

// Its second and third disk are slots, the third one empty.
class RestoredSlotsTest : public RestoredMachineTest {
 protected:
  RestoredSlotsTest() {
    config_ = R"({"mem": "64M", "disk": ["root.img,size=1G", "size=1G,ro", "size=2G,queues=2"]})";
  }
};

TEST_F(RestoredSlotsTest, AreWhatTheyWereUnlessTheyAreFilled) {
  ASSERT_TRUE(save("one"));
  const auto same = restored("one");
  ASSERT_TRUE(same) << same.error().message();
  EXPECT_EQ(same->disks.at(0).path, path("one/blk0.img"));
  EXPECT_TRUE(same->disks.at(0).scratch);
  EXPECT_EQ(same->disks.at(0).slot_size, 1u << 30);
  EXPECT_EQ(same->disks.at(1), (disk::DiskConfig{.slot_size = 1u << 30, .read_only = true}));
  EXPECT_EQ(same->disks.at(2), (disk::DiskConfig{.slot_size = 2u << 30, .queues = 2}));
  const auto filled =
      restored("one", {"blk1=image.erofs,format=raw", "blk2=layer.qcow2,io=threads,rw"});
  ASSERT_TRUE(filled) << filled.error().message();
  EXPECT_EQ(filled->disks.at(0), same->disks.at(0));
  EXPECT_EQ(filled->disks.at(1), (disk::DiskConfig{.path = "image.erofs",
                                                   .slot_size = 1u << 30,
                                                   .format = disk::ImageFormat::raw,
                                                   .read_only = true}));
  EXPECT_EQ(filled->disks.at(2), (disk::DiskConfig{.path = "layer.qcow2",
                                                   .slot_size = 2u << 30,
                                                   .io = disk::IoEngine::threads,
                                                   .queues = 2}));
  // What was in a slot may be another one, of which an incremental snapshot knows nothing.
  const auto replaced = restored("one", {"blk0=other.img,rw"});
  ASSERT_TRUE(replaced) << replaced.error().message();
  EXPECT_EQ(replaced->disks.at(0), (disk::DiskConfig{.path = "other.img", .slot_size = 1u << 30}));
  EXPECT_EQ(machine("one", disks({"blk0=other.img,rw"}))->attached, std::set<std::string>{"blk0"});
  EXPECT_TRUE(machine("one")->attached.empty());
  EXPECT_EQ(why_not_disks("one", {"blk1=x,rw"}),
            "disk 'x': ',rw' is for a slot without ',ro': this guest cannot write to its disk");
  EXPECT_EQ(why_not_disks("one", {"blk2=x,rw,ro"}),
            "disk 'blk2=x,rw,ro': ro and rw do not go together");
  EXPECT_EQ(why_not_disks("one", {"blk2=x,ro,rw=off"}),
            "disk 'x': ',ro' is for a slot that has it: this guest may write to its disk");
  EXPECT_NE(why_not_disks("one", {"blk2=x,rw,queues=2"}), "");
  EXPECT_NE(why_not_disks("one", {"blk3=x"}).find("has no such disk"), std::string::npos);
  EXPECT_NE(why_not_disks("one", {"size=1G"}).find("it is a path alone"), std::string::npos);
}

// A manifest that calls a disk a slot would have a file written to that was only read before.
TEST_F(RestoredSlotsTest, AStrangersSlotIsWrittenToWhenThePersonSaysSo) {
  const struct State {
    explicit State(const std::string& path) { ::setenv("XDG_STATE_HOME", path.c_str(), 1); }
    ~State() { ::unsetenv("XDG_STATE_HOME"); }
  } state(path("state"));
  ASSERT_TRUE(save("one"));
  EXPECT_EQ(why_not_disks("one", {"blk2=x,format=raw"}),
            fmt::format("--disk blk2=x: the guest of snapshot '{}', which was not saved by this "
                        "user on this host, may write to that disk: allow it with ,rw",
                        path("one")));
  EXPECT_EQ(why_not_disks("one", {"blk2=x,rw"}), "");
  EXPECT_EQ(why_not_disks("one", {"blk1=x"}), "") << "it is read-only";
  EXPECT_EQ(why_not_disks("one", {"blk2=x,scratch"}), "") << "the file stays as it is";
  origin_ = snapshot::Origin::machine;
  ASSERT_TRUE(save("own"));
  EXPECT_EQ(why_not_disks("own", {"blk2=x"}), "");
}

TEST_F(RestoredSlotsTest, ADiskThatIsNotASlotIsInTheSnapshot) {
  config_ = R"({"mem": "64M", "disk": ["root.img", "other.img"]})";
  ASSERT_TRUE(save("one"));
  EXPECT_EQ(why_not_disks("one", {}), fmt::format("snapshot '{}' has 1 disks, its configuration "
                                                  "names 2",
                                                  path("one")));
}

TEST_F(RestoredSlotsTest, AttachmentsHaveAbsolutePaths) {
  const auto text = to_attachment("blk1", "/a,,b,format=raw");
  ASSERT_TRUE(text) << text.error().message();
  EXPECT_EQ(*text, "{\n  \"path\": \"/a,b\",\n  \"format\": \"raw\"\n}");
  EXPECT_EQ(to_attachment("blk1", "x")->find(R"("path": "/)"), 4u);
  EXPECT_EQ(to_attachment("disk1", "x").error().message(),
            "no component is called 'disk1': blk0, net0 and vsock are");
  EXPECT_FALSE(to_attachment("blk1", "x,format=tar"));
  EXPECT_FALSE(to_attachment("blk1", ""));
}

// ---- the same machine again

class ResumedMachineTest : public RestoredMachineTest {
 protected:
  ResumedMachineTest() {
    ::setenv("XDG_STATE_HOME", path("state").c_str(), 1);
    origin_ = snapshot::Origin::machine;
    config_ = R"({"kernel": "/dev/null", "append": "quiet", "mem": "64M", "control": "/control",
                  "serial": "file:/console", "vsock": "/run/vsock,cid=9", "disk": "root.img",
                  "net": ["user,hostfwd=tcp::8080-:80", "tap=t0,mac=52:54:00:12:34:56"]})";
    disk_path_ = path("root.img");
    std::ofstream(disk_path_) << "its content";
  }
  ~ResumedMachineTest() override { ::unsetenv("XDG_STATE_HOME"); }
  Result<RestoredMachine> resumed(const std::string& name, const Words& options = {}) const {
    GivenMachine given;
    for (const auto& [key, word] : options) TRY(take_option(given, key, word));
    return restored_machine(*TRY(snapshot::open_source(path(name))), given, As::same);
  }
  std::string why_not_resumed(const std::string& name, const Words& options = {}) const {
    const auto machine = resumed(name, options);
    return machine ? "" : machine.error().message();
  }
};

TEST_F(ResumedMachineTest, IsConnectedToWhatItWas) {
  ASSERT_TRUE(save("one"));
  const auto machine = resumed("one");
  ASSERT_TRUE(machine) << machine.error().message();
  const auto& config = machine->config;
  EXPECT_EQ(config.kernel, "/dev/null");
  EXPECT_EQ(config.control, "/control");
  EXPECT_EQ(config.serial.path, "/console");
  EXPECT_EQ(config.vsock->path, "/run/vsock");
  EXPECT_EQ(config.disks.at(0).path, disk_path_);
  EXPECT_FALSE(config.disks.at(0).scratch) << "what it writes stays";
  EXPECT_EQ(config.nets.at(0).user.forwards.size(), 1u);
  EXPECT_EQ(config.nets.at(1).tap, "t0");
  EXPECT_EQ(config.nets.at(1).mac->text(), "52:54:00:12:34:56");
  EXPECT_TRUE(machine->unconnected.empty());
  kernel_ = disk_path_;  // any file
  ASSERT_TRUE(save("kept"));
  EXPECT_EQ(resumed("kept")->config.kernel, "") << "what a reset boots is in the snapshot";
  EXPECT_EQ(resumed("kept")->kernel, "/dev/null") << "what it is called";
  EXPECT_EQ(resumed("kept", {{"kernel", "mine"}})->config.kernel, "mine");
  EXPECT_EQ(resumed("kept", {{"kernel", "mine"}})->kernel, "");
  EXPECT_EQ(resumed("one")->kernel, "") << "its configuration has it";
  const auto other = resumed("one", {{"serial", "none"}, {"vsock", "/other,cid=9"}});
  ASSERT_TRUE(other);
  EXPECT_EQ(other->config.serial.kind, chardev::Kind::none);
  EXPECT_EQ(other->config.vsock->path, "/other");
  EXPECT_EQ(other->config.control, "/control");
  EXPECT_EQ(why_not_resumed("one", {{"mem", "64M"}}),
            "--mem does not go with --resume: the snapshot says it");
}

TEST_F(ResumedMachineTest, OnlyWhereItWasSaved) {
  const auto refusal = [&](const std::string& name) {
    return fmt::format(
        "snapshot '{}' was not saved by this user on this host: --restore makes a "
        "copy of it",
        path(name));
  };
  ASSERT_TRUE(save("one"));
  EXPECT_EQ(why_not_resumed("one"), "");
  // Copied, it is still this user's; changed, moved through an archive, or of another key, not.
  std::filesystem::copy(path("one"), path("copied"));
  EXPECT_EQ(why_not_resumed("copied"), "");
  const auto reader = snapshot::Reader::open(path("one"));
  ASSERT_TRUE(reader);
  ASSERT_TRUE(snapshot::export_snapshot(**reader, path("one.vmm"), {}));
  ASSERT_TRUE(snapshot::import_archive(path("one.vmm"), path("imported"), {}));
  EXPECT_EQ(why_not_resumed("imported"), refusal("imported"));
  EXPECT_EQ(why_not_resumed("one.vmm"), refusal("one.vmm"));
  origin_ = snapshot::Origin::other;
  ASSERT_TRUE(save("other"));
  EXPECT_EQ(why_not_resumed("other"), refusal("other"));
  std::filesystem::copy(path("one/origin"), path("other/origin"));
  config_ = R"({"mem": "64M", "disk": "root.img", "net": "tap=theirs"})";
  ASSERT_TRUE(save("forged"));
  std::filesystem::copy(path("one/origin"), path("forged/origin"));
  EXPECT_EQ(why_not_resumed("forged"), refusal("forged"));
  std::filesystem::remove(path("state/vmm/origin-key"));
  EXPECT_EQ(why_not_resumed("one"), refusal("one"));
}

TEST_F(ResumedMachineTest, ItsKeyIsItsUsersAlone) {
  ASSERT_TRUE(save("one"));
  const auto key = path("state/vmm/origin-key");
  struct stat status{};
  ASSERT_EQ(::stat(key.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_EQ(status.st_size, 32);
  ASSERT_EQ(::chmod(key.c_str(), 0640), 0);
  EXPECT_NE(why_not_resumed("one"), "") << "somebody else may have read it";
  ASSERT_EQ(::chmod(key.c_str(), 0600), 0);
  EXPECT_EQ(why_not_resumed("one"), "");
}

TEST_F(ResumedMachineTest, ADiskThatHasChangedIsNotItsOwn) {
  ASSERT_TRUE(save("one"));
  const auto later = std::filesystem::file_time_type::clock::now() + std::chrono::hours(1);
  std::filesystem::last_write_time(disk_path_, later);
  EXPECT_NE(why_not_resumed("one").find("has changed since snapshot"), std::string::npos);
  const auto over = resumed("one", {{"disk", path("mine.qcow2")}});
  ASSERT_TRUE(over) << over.error().message();
  EXPECT_EQ(over->config.disks.at(0).path, path("one/blk0.img"));
  EXPECT_EQ(over->config.disks.at(0).layer, path("mine.qcow2"));
  std::filesystem::remove(disk_path_);
  EXPECT_NE(why_not_resumed("one").find("No such file"), std::string::npos);
}

TEST_F(ResumedMachineTest, DescriptorsAreGone) {
  config_ = R"({"mem": "64M", "disk": "root.img", "net": "fd=7:8"})";
  ASSERT_TRUE(save("one"));
  EXPECT_EQ(why_not_resumed("one"),
            "net0 was connected to open descriptors: --net says to what, for each card");
  EXPECT_EQ(why_not_resumed("one", {{"net", "tap=t0,queues=2"}}), "");
}

}  // namespace
}  // namespace vmm::config
