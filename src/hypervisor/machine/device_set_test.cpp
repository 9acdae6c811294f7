// What `vmm ctl ... status` and `metrics` say of each kind of device, to the byte: scripts read it.
#include "src/hypervisor/machine/device_set.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "src/base/json.h"
#include "src/base/worker.h"
#include "src/hypervisor/machine/device_kinds.h"
#include "src/hypervisor/machine/slots.h"

namespace vmm {
namespace {

struct Messages : MsiSink {
  void send(const MsiMessage&) override {}
  Result<std::unique_ptr<MsiRoute>> create_route() override { return fail("not in this test"); }
};
struct Doorbells : DoorbellRegistry {
  Result<void> attach(GuestAddress, const EventFd&) override { return {}; }
  void detach(GuestAddress, const EventFd&) override {}
};

class DeviceSetTest : public ::testing::Test {
 protected:
  DeviceSetTest() {
    std::string name = std::filesystem::temp_directory_path() / "vmm-devices-XXXXXX";
    folder_ = ::mkdtemp(name.data());
  }
  ~DeviceSetTest() override {
    set_.reset();
    std::filesystem::remove_all(folder_);
  }
  DeviceContext context() { return {*memory_, messages_, doorbells_, io_->loop()}; }
  static MemoryRange window() { return {GuestAddress{0xc000'0000}, 1u << 28}; }
  void create(const MachineConfig& config) {
    auto set = DeviceSet::create(config, context(), window());
    ASSERT_TRUE(set) << set.error().message();
    set_ = std::move(*set);
  }
  std::string disk() {
    const auto path = folder_ + "/disk.img";
    std::ofstream(path) << std::string(4096, 'x');
    return path;
  }
  static MachineConfig bare() {
    MachineConfig config;
    config.disks.clear();
    config.nets.clear();
    return config;
  }

  static constexpr std::array kRam = {MemoryRange{GuestAddress{0}, 16u << 20}};
  std::string folder_;
  std::unique_ptr<GuestMemory> memory_ = std::move(GuestMemory::create(kRam).value());
  std::unique_ptr<Worker> io_ = std::move(Worker::start("io").value());
  Messages messages_;
  Doorbells doorbells_;
  std::unique_ptr<DeviceSet> set_;
};

TEST_F(DeviceSetTest, WithoutDevices) {
  create(bare());
  EXPECT_EQ(to_json_text(set_->metrics()), "{}");
  EXPECT_EQ(to_json_text(set_->status()), R"({"disks":[],"nets":[],"pmems":[]})");
  EXPECT_EQ(set_->memory_target(), nullptr);
  EXPECT_TRUE(set_->wait_ready());
}

TEST_F(DeviceSetTest, OneOfEachKind) {
  auto config = bare();
  const auto path = disk();
  config.disks = {{.path = path, .read_only = true}, {.path = path, .label = "root"}};
  config.disks[1].read_only = true;
  virtio::NetConfig net;
  net.kind = virtio::NetKind::unplugged;
  net.mac = net::MacAddress{{0x52, 0x54, 0, 0x12, 0x34, 0x56}};
  config.nets = {net};
  config.vsock = virtio::VsockConfig{.cid = 42, .path = folder_ + "/vsock"};
  config.balloon = config.rng = true;
  config.pmems = {{.path = path}};
  create(config);
  EXPECT_EQ(to_json_text(set_->status()),
            fmt::format(R"({{"disks":[{{"path":"{}","read_only":true}},)"
                        R"({{"path":"root","read_only":true}}],)"
                        R"("nets":[{{"mac":"52:54:00:12:34:56","ports":[]}}],)"
                        R"("pmems":[{{"path":"{}","size":2097152}}],)"
                        R"("vsock":{{"cid":42,"path":"{}/vsock"}}}})",
                        path, path, folder_));
  const std::string block =
      R"({"bytes_read":0,"bytes_written":0,"discards":0,"errors":0,"flushes":0,"reads":0,)"
      R"("throttled":0,"write_zeroes":0,"writes":0})";
  EXPECT_EQ(to_json_text(set_->metrics()),
            R"({"balloon":{"actual_bytes":0,"guest":{},"inflated_bytes":0,"reported_bytes":0,)"
            R"("target_bytes":0},"blk0":)" +
                block + R"(,"blk1":)" + block +
                R"(,"net0":{"link_up":false,"rx_bytes":0,"rx_dropped":0,"rx_packets":0,)"
                R"("tx_bytes":0,"tx_dropped":0,"tx_packets":0,"vhost":false},)"
                R"("pmem0":{"requests":0},"rng":{"bytes":0,"requests":0},)"
                R"("vsock":{"connections":0,"ended":0,"rx_bytes":0,"rx_packets":0,)"
                R"("rx_waiting":0,"tx_bytes":0,"tx_packets":0}})");
}

TEST_F(DeviceSetTest, ASlotSaysWhatIsInIt) {
  auto config = bare();
  config.disks = {{.slot_size = 1u << 20}};
  create(config);
  const auto status = [this] { return to_json_text(set_->status()); };
  EXPECT_EQ(status(), R"({"disks":[{"path":"","read_only":false,"size":0,"slot_size":1048576}],)"
                      R"("nets":[],"pmems":[]})");
  const auto path = disk();
  const SlotRequest request{.component = "blk0", .attachment = spec::Value(path)};
  const auto before = config;
  ASSERT_TRUE(apply(request, config));
  auto change = prepare(request, before, config, *set_);
  ASSERT_TRUE(change) << change.error().message();
  ASSERT_TRUE(set_->change("blk0", **change));
  EXPECT_EQ(status(), fmt::format(R"({{"disks":[{{"path":"{}","read_only":false,"size":4096,)"
                                  R"("slot_size":1048576}}],"nets":[],"pmems":[]}})",
                                  path));
}

// A file is looked at beside the thread that owns the machine: it may be on a server that is gone.
TEST_F(DeviceSetTest, AnotherNameOfWhatASlotHasIsFoundWhenItIsOpened) {
  auto before = bare();
  before.disks = {{.path = disk(), .slot_size = 1u << 20}};
  create(before);
  const auto other = folder_ + "/another name";
  std::filesystem::create_symlink(before.disks[0].path, other);
  const SlotRequest request{
      .what = SlotRequest::What::replace, .component = "blk0", .attachment = spec::Value(other)};
  auto config = before;
  ASSERT_TRUE(apply(request, config));
  const auto change = prepare(request, before, config, *set_);
  ASSERT_FALSE(change);
  EXPECT_EQ(change.error().message(),
            fmt::format("disk '{}' is in the slot already: detach it first", other));
}

// The watch for hangs would end the machine while a slow disk is synced.
TEST_F(DeviceSetTest, AChangeIsNoHang) {
  class Change : public virtio::SlotChange {
   public:
    explicit Change(const Waits& waits) : waits_(waits) {}

   private:
    Result<void> do_make() override {
      while (Waits::Clock::now() == begun_) {
      }
      EXPECT_EQ(waits_.longer_than({}), "");
      return {};
    }
    const Waits& waits_;
    const Waits::Clock::time_point begun_ = Waits::Clock::now();
  };
  auto config = bare();
  config.disks = {{.slot_size = 1u << 20}};
  create(config);
  const auto waits = std::make_shared<Waits>();
  set_->tell_waits(waits);
  Change change(*waits);
  EXPECT_TRUE(set_->change("blk0", change));
  EXPECT_TRUE(change.is_made());
}

// Each takes a slot of the PCI bus, whatever it is.
TEST_F(DeviceSetTest, ThereAreAsManyDevicesAsSlots) {
  auto config = bare();
  config.disks.assign(20, {.slot_size = 1u << 20});
  config.nets.assign(10, virtio::parse_net_config("unplugged").value());
  config.rng = true;
  create(config);
  std::size_t count = 0;
  set_->for_each([&](const std::string&, virtio::Device&) { ++count; });
  EXPECT_EQ(count, 31u);
  const auto why_not = [&] {
    const auto made = DeviceSet::create(config, context(), window());
    return made ? "" : made.error().message();
  };
  config.nets.push_back(config.nets[0]);
  config.nets.push_back(config.nets[0]);
  config.rng = false;
  EXPECT_EQ(why_not(), "32 devices (20 blk, 12 net): expected at most 31");
  config.nets.clear();
  config.balloon = true;
  config.disks.assign(1000, {.path = "/no/such/file"});
  EXPECT_EQ(why_not(), "1001 devices (1000 blk, 1 balloon): expected at most 31");
}

// Who frees one of them is not told of the next then.
TEST_F(DeviceSetTest, AllThatDoesNotOpenIsSaid) {
  auto config = bare();
  config.disks = {{.path = "/no/such/file"}, {.slot_size = 1u << 20}, {.path = "/no/such/other"}};
  config.nets.push_back(virtio::parse_net_config("tap=no-such-tap").value());
  config.vsock = virtio::VsockConfig{.path = "/no/such/folder/vsock"};
  const auto made = DeviceSet::create(config, context(), window());
  ASSERT_FALSE(made);
  const auto& text = made.error().message();
  std::size_t at = 0;
  for (const char* part : {"/no/such/file", "; ", "/no/such/other", "; ", "no-such-tap", "; ",
                           "/no/such/folder/vsock"}) {
    at = text.find(part, at);
    EXPECT_NE(at, std::string::npos) << part << " in: " << text;
  }
}

TEST_F(DeviceSetTest, TheTargetReachesTheDevice) {
  auto config = bare();
  config.balloon = config.rng = true;
  create(config);
  ASSERT_NE(set_->memory_target(), nullptr);
  ASSERT_TRUE(set_->memory_target()->set_target(8u << 20));
  EXPECT_NE(to_json_text(set_->metrics()).find(R"("target_bytes":8388608)"), std::string::npos);
  EXPECT_FALSE(set_->memory_target()->set_target(1u << 30));
}

TEST_F(DeviceSetTest, OnlyDisksAreCopied) {
  auto config = bare();
  config.disks = {{.path = disk()}};
  config.balloon = config.rng = true;
  create(config);
  set_->for_each([](const std::string& name, virtio::Device& device) {
    auto* disk = device.copied_disk();
    EXPECT_EQ(disk != nullptr, name == "blk0") << name;
    EXPECT_EQ(device.copied_disk(), disk) << "the same, however often it is asked for";
  });
}

TEST(DeviceKinds, NamesAreTheirOwn) {
  std::set<std::string_view> names, keys;
  MachineConfig config;
  spec::Fields fields("machine");
  for (const auto& kind : device_kinds()) {
    kind.declare(config, fields);
    EXPECT_EQ(kind.count(config), 0u) << kind.name << " is there without being asked for";
    EXPECT_TRUE(names.insert(kind.name).second) << kind.name;
    EXPECT_TRUE(kind.status_key.empty() || keys.insert(kind.status_key).second) << kind.name;
  }
  EXPECT_EQ(fields.all().size(), names.size()) << "an option each";
  for (const auto& field : fields.all()) EXPECT_EQ(fields.find(field.key.name), &field);
}

}  // namespace
}  // namespace vmm
