#include "devices/virtio/pci/transport.h"

#include <gtest/gtest.h>

#include "devices/pci/host.h"
#include "tests/support/virtio_driver.h"

namespace vmm::virtio {
namespace {

// Echoes nothing: records what the transport does to it.
class FakeDevice : public Device {
 public:
  DeviceType type() const override { return DeviceType::block; }
  std::uint64_t features() const override { return 0x5 | kFeatureEventIdx; }
  std::vector<std::uint16_t> queue_sizes() const override { return {256, 64}; }
  void read_config(std::uint64_t offset, std::span<std::byte> target) const override {
    read_config_bytes(std::as_bytes(std::span("config", 6)), offset, target);
  }
  Result<void> activate(Activation activation) override {
    if (refuse) return fail("not today");
    active = std::move(activation);
    return {};
  }
  std::vector<std::optional<Queue>> deactivate() override {
    ++deactivations;
    std::vector<std::optional<Queue>> queues;
    for (auto& queue : active.queues) {
      auto& back = queues.emplace_back();
      if (queue) back = std::move(queue->queue);
    }
    active = {};
    return queues;
  }
  void save(state::Sections&, std::string_view) const override {}
  Result<void> restore(state::Sections&, std::string_view) override { return {}; }
  NamedValues metrics() override { return {}; }
  bool refuse = false;
  int deactivations = 0;
  Activation active;
};

struct Sink : MsiSink {
  void send(const MsiMessage& message) override { sent.push_back(message.data); }
  Result<std::unique_ptr<MsiRoute>> create_route() override { return fail("not in this test"); }
  std::vector<std::uint32_t> sent;
};

struct Doorbells : DoorbellRegistry {
  Result<void> attach(GuestAddress address, const EventFd&) override {
    attached.push_back(address.value);
    return {};
  }
  void detach(GuestAddress address, const EventFd&) override {
    std::erase(attached, address.value);
  }
  std::vector<std::uint64_t> attached;
};

class FakeChange : public SlotChange {
 public:
  Result<void> check(std::uint64_t used) const override {
    if ((used & missing) != 0) return fail("bits {:#x} are missing", used & missing);
    return {};
  }
  std::uint64_t missing = 0;
  std::function<Result<void>()> made = [] { return Result<void>(); };

 private:
  Result<void> do_make() override { return made(); }
};

class TransportTest : public ::testing::Test {
 protected:
  TransportTest() {
    transport_ =
        std::move(PciTransport::create("fake", device_, ram_.memory(), sink_, doorbells_).value());
    EXPECT_TRUE(host_.add(*transport_));
    transport_->write_config(4, 2, 6);
  }
  void write(std::uint64_t at, unsigned size, std::uint64_t value) {
    transport_->write_bar(at, size, value);
  }
  std::uint64_t read(std::uint64_t at, unsigned size) { return transport_->read_bar(at, size); }
  void negotiate(std::uint64_t features = kFeatureVersion1) {
    write(0x14, 1, 1);
    write(0x14, 1, 3);
    write(8, 4, 0);
    write(0xc, 4, features & 0xffff'ffff);
    write(8, 4, 1);
    write(0xc, 4, features >> 32);
    write(0x14, 1, 11);
  }
  void enable_queue(std::uint16_t index, const QueueConfig& config) {
    write(0x16, 2, index);
    write(0x18, 2, config.size);
    write(0x1a, 2, index + 1u);
    write(0x20, 4, config.descriptors.value);
    write(0x28, 4, config.avail.value);
    write(0x30, 4, config.used.value);
    write(0x1c, 2, 1);
  }
  void enable_msix(unsigned capability) {
    for (std::uint64_t vector = 0; vector < 3; ++vector) {
      write(0x4000 + 16 * vector + 8, 4, 0x40 + vector);
      write(0x4000 + 16 * vector + 12, 4, 0);
    }
    transport_->write_config(capability + 2, 2, pci::kMsixEnable);
  }
  unsigned find_capability(std::uint8_t id) {
    unsigned at = transport_->read_config(0x34, 1);
    while (at != 0 && transport_->read_config(at, 1) != id) {
      at = transport_->read_config(at + 1, 1);
    }
    return at;
  }
  void start_driver() {
    negotiate();
    enable_queue(0, driver_.config());
    write(0x14, 1, 15);
    ASSERT_TRUE(device_.active.interrupts);
  }
  TransportState save() {
    transport_->suspend();
    auto state = transport_->save();
    EXPECT_TRUE(transport_->resume());
    return state;
  }
  // A new transport with that state, in the place of the fixture's.
  Result<void> restore(const TransportState& state) {
    transport_ =
        std::move(PciTransport::create("fake", device_, ram_.memory(), sink_, doorbells_).value());
    TRY(transport_->restore(state));
    EXPECT_TRUE(transport_->resume());
    return {};
  }
  test::GuestRam ram_;
  test::DriverQueue driver_{ram_, 64};
  FakeDevice device_;
  Sink sink_;
  Doorbells doorbells_;
  pci::PciHost host_{MemoryRange{GuestAddress{0xc000'0000}, 0x100'0000}};
  std::unique_ptr<PciTransport> transport_;
};

TEST_F(TransportTest, OffersFeaturesByHalves) {
  write(0, 4, 0);
  EXPECT_EQ(read(4, 4), 0x5u | kFeatureEventIdx);
  write(0, 4, 1);
  EXPECT_EQ(read(4, 4), 1u);
  write(0, 4, 2);
  EXPECT_EQ(read(4, 4), 0u);
  EXPECT_EQ(read(0x12, 2), 2u);
  EXPECT_EQ(read(0x2000, 4), 0x666e6f63u) << "conf";
  EXPECT_EQ(read(0x2fff, 1), 0u);
}

TEST_F(TransportTest, RefusesFeaturesThatWereNotOffered) {
  negotiate(kFeatureVersion1 | 0x2);
  EXPECT_EQ(read(0x14, 1), 3u);
  write(0x14, 1, 0);
  negotiate(0x1);
  EXPECT_EQ(read(0x14, 1), 3u) << "no VERSION_1";
}

TEST_F(TransportTest, ActivatesInterruptsAndResets) {
  negotiate();
  enable_queue(0, driver_.config());
  enable_msix(find_capability(pci::kCapabilityMsix));
  write(0x14, 1, 15);
  ASSERT_TRUE(device_.active.interrupts);
  ASSERT_EQ(device_.active.queues.size(), 2u);
  EXPECT_TRUE(device_.active.queues[0]);
  EXPECT_FALSE(device_.active.queues[1]) << "not enabled";
  EXPECT_EQ(doorbells_.attached, std::vector<std::uint64_t>{0xc000'3000});
  EXPECT_TRUE(device_.active.queues[0]->kick->consume()) << "a kick from before is not lost";
  write(0x3000, 2, 0);
  EXPECT_TRUE(device_.active.queues[0]->kick->consume()) << "rings without an ioeventfd too";
  device_.active.interrupts->queue_used(0);
  EXPECT_EQ(sink_.sent, std::vector<std::uint32_t>{0x41});
  EXPECT_EQ(read(0x1000, 1), 1u);
  EXPECT_EQ(read(0x1000, 1), 0u);
  // The driver moves the BAR of an active device.
  transport_->write_config(0x10, 4, 0xc080'0000);
  EXPECT_EQ(doorbells_.attached, std::vector<std::uint64_t>{0xc080'3000});
  write(0x14, 1, 0);
  EXPECT_EQ(device_.deactivations, 1);
  EXPECT_TRUE(doorbells_.attached.empty());
  EXPECT_EQ(read(0x14, 1), 0u);
  write(0x16, 2, 0);
  EXPECT_EQ(read(0x1c, 2), 0u);
  EXPECT_EQ(read(0x18, 2), 256u);
}

// Counts whether the device had its queues when it was made.
struct CountedChange : SlotChange {
  explicit CountedChange(FakeDevice& changed) : device(changed) {}
  Result<void> do_make() override {
    ++made;
    was_active = device.active.interrupts != nullptr;
    return result;
  }
  FakeDevice& device;
  Result<void> result;
  int made = 0;
  bool was_active = false;
};

TEST_F(TransportTest, ASlotIsChangedBetweenASuspensionAndAnActivation) {
  CountedChange change(device_);
  EXPECT_TRUE(transport_->change(change)) << "before there is a driver";
  EXPECT_EQ(device_.deactivations, 0);
  start_driver();
  EXPECT_TRUE(transport_->change(change));
  EXPECT_EQ(change.made, 2);
  EXPECT_FALSE(change.was_active);
  EXPECT_TRUE(device_.active.resumed);
  EXPECT_TRUE(device_.active.queues.at(0));
  EXPECT_EQ(read(0x14, 1), 15u) << "its driver sees nothing of it";
  change.result = fail("not today");
  EXPECT_FALSE(transport_->change(change));
  EXPECT_TRUE(device_.active.interrupts) << "it goes on all the same";
  // Of a machine that stands still the device does not go on by itself.
  transport_->suspend();
  change.result = {};
  EXPECT_TRUE(transport_->change(change));
  EXPECT_FALSE(device_.active.interrupts);
  EXPECT_TRUE(transport_->resume());
  EXPECT_TRUE(device_.active.interrupts);
}

TEST_F(TransportTest, ABarOverAnotherOneHasNoDoorbells) {
  FakeDevice device;
  auto other =
      std::move(PciTransport::create("other", device, ram_.memory(), sink_, doorbells_).value());
  ASSERT_TRUE(host_.add(*other));
  other->write_config(4, 2, 6);
  start_driver();
  const std::vector<std::uint64_t> first = {0xc000'3000};
  ASSERT_EQ(doorbells_.attached, first);
  const auto place = static_cast<std::uint32_t>(other->bar_address()->value);
  for (int i = 0; i < 3; ++i) {
    transport_->write_config(0x10, 4, place);
    EXPECT_TRUE(doorbells_.attached.empty());
    transport_->write_config(0x10, 4, place + 0x8000);
    EXPECT_EQ(doorbells_.attached, std::vector<std::uint64_t>{place + 0xb000u});
  }
  transport_->write_config(0x10, 4, 0xb000'0000);
  EXPECT_TRUE(doorbells_.attached.empty()) << "outside of the window";
  transport_->write_config(0x10, 4, 0xc000'0000);
  EXPECT_EQ(doorbells_.attached, first);
  write(0x14, 1, 0);
}

TEST_F(TransportTest, BadRingsNeedAReset) {
  negotiate();
  auto config = driver_.config();
  config.used.value = ram_.memory().size();
  enable_queue(0, config);
  write(0x10, 2, 0);  // configuration vector
  enable_msix(find_capability(pci::kCapabilityMsix));
  write(0x14, 1, 15);
  EXPECT_FALSE(device_.active.interrupts);
  EXPECT_EQ(read(0x14, 1), 15u | 64u);
  EXPECT_EQ(sink_.sent, std::vector<std::uint32_t>{0x40});
  write(0x14, 1, 0);
  EXPECT_EQ(read(0x14, 1), 0u);
  EXPECT_EQ(device_.deactivations, 0) << "it was never active";
}

TEST_F(TransportTest, ARefusedActivationNeedsAReset) {
  device_.refuse = true;
  negotiate();
  write(0x14, 1, 15);
  EXPECT_EQ(read(0x14, 1), 15u | 64u);
}

TEST_F(TransportTest, OnlyAResetTakesStatusBitsAway) {
  start_driver();
  for (const unsigned value : {1u, 4u, 8u, 11u}) {
    write(0x14, 1, value);
    EXPECT_EQ(read(0x14, 1), 15u) << "after " << value;
  }
  // VHOST_F_LOG_ALL, which was never offered.
  for (const std::uint64_t half : {0u, 1u}) {
    write(8, 4, half);
    write(0xc, 4, 1u << 26);
  }
  EXPECT_EQ(read(0xc, 4), 1u) << "the upper half as it was accepted";
  write(0x14, 1, 15);
  EXPECT_EQ(device_.deactivations, 0);
  const auto state = save();
  EXPECT_EQ(state.driver_features, kFeatureVersion1);
  EXPECT_EQ(device_.active.features, kFeatureVersion1) << "resumed";
  write(0x14, 1, 0);
  EXPECT_EQ(read(0x14, 1), 0u);
}

TEST_F(TransportTest, QueuesAreFixedFromDriverOkOn) {
  start_driver();
  auto broken = driver_.config();
  broken.used.value = ram_.memory().size();
  enable_queue(1, broken);
  EXPECT_EQ(read(0x1c, 2), 0u);
  EXPECT_EQ(read(0x30, 4), 0u);
  const auto state = save();
  EXPECT_FALSE(state.queues[1].enabled);
  EXPECT_FALSE(device_.active.queues[1]);
  const auto restored = restore(state);
  EXPECT_TRUE(restored) << restored.error().message();
}

TEST_F(TransportTest, AFailedActivationIsNotTriedAgain) {
  negotiate();
  auto config = driver_.config();
  config.used.value = ram_.memory().size();
  enable_queue(0, config);
  write(0x14, 1, 15);
  ASSERT_EQ(read(0x14, 1), 15u | 64u);
  write(0x30, 4, driver_.config().used.value);
  write(0x14, 1, 15);
  EXPECT_FALSE(device_.active.interrupts);
  write(0x14, 1, 0);
  start_driver();
}

TEST_F(TransportTest, RestoresFeaturesThatWereNotAcceptedYet) {
  negotiate(kFeatureVersion1 | 0x2);
  const auto state = save();
  EXPECT_EQ(state.driver_features, kFeatureVersion1 | 0x2);
  const auto restored = restore(state);
  ASSERT_TRUE(restored) << restored.error().message();
  EXPECT_EQ(read(0x14, 1), 3u);
  write(0x14, 1, 0);
  start_driver();
}

TEST_F(TransportTest, RefusesAnActiveDriverWhoseFeaturesAreMissing) {
  start_driver();
  auto state = save();
  state.driver_features |= 0x2;
  EXPECT_FALSE(restore(state));
}

// States of earlier versions, where a driver could change an active device's registers.
TEST_F(TransportTest, RestoresWhatAnActiveDriverMadeOdd) {
  start_driver();
  const auto state = save();
  const auto expect_needs_reset = [&](const TransportState& odd) {
    const int before = device_.deactivations;
    const auto restored = restore(odd);
    ASSERT_TRUE(restored) << restored.error().message();
    EXPECT_NE(read(0x14, 1) & 64u, 0u);
    write(0x14, 1, 0);
    EXPECT_EQ(device_.deactivations, before + 1) << "of the machine that was saved only";
    start_driver();
  };
  auto odd = state;
  odd.status = 7;
  odd.driver_features = kFeatureVersion1 | 1u << 26;
  expect_needs_reset(odd);
  odd = state;
  odd.queues[1] = {.size = 3, .descriptors = 1, .enabled = true};
  expect_needs_reset(odd);
  odd = state;
  odd.status = 3;  // taken away, nothing else changed
  ASSERT_TRUE(restore(odd));
  EXPECT_EQ(read(0x14, 1), 15u);
  EXPECT_TRUE(device_.active.interrupts);
}

TEST_F(TransportTest, ASlotIsChangedWhileItsDeviceIsSuspended) {
  start_driver();
  FakeChange change;
  bool suspended = false;
  change.made = [&] {
    EXPECT_TRUE(suspended);
    EXPECT_FALSE(device_.active.interrupts);
    return Result<void>();
  };
  ASSERT_TRUE(transport_->change(change, [&] { suspended = true; }));
  EXPECT_TRUE(change.is_made());
  EXPECT_TRUE(device_.active.resumed);
}

TEST_F(TransportTest, AChangeWithoutWhatTheDriverUsesIsNotMade) {
  FakeChange change;
  change.missing = 4;
  negotiate(kFeatureVersion1 | 4);
  const auto made = transport_->change(change);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().message(), "bits 0x4 are missing");
  EXPECT_FALSE(change.is_made());
  // Of a restored driver the device knows nothing until it goes on; after a reset nobody uses any.
  enable_queue(0, driver_.config());
  write(0x14, 1, 15);
  transport_->suspend();
  const auto state = transport_->save();
  transport_ =
      std::move(PciTransport::create("fake", device_, ram_.memory(), sink_, doorbells_).value());
  ASSERT_TRUE(transport_->restore(state));
  EXPECT_FALSE(transport_->change(change));
  write(0x14, 1, 0);
  EXPECT_TRUE(transport_->change(change));
}

TEST_F(TransportTest, ADeviceGoesOnAfterAChangeThatFailed) {
  start_driver();
  FakeChange change;
  change.made = [] { return fail("no"); };
  EXPECT_FALSE(transport_->change(change));
  EXPECT_TRUE(device_.active.resumed);
  device_.active.resumed = false;
  change.made = []() -> Result<void> { throw std::bad_alloc(); };
  const auto made = transport_->change(change);
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message().find("no memory"), std::string::npos);
  EXPECT_TRUE(device_.active.resumed);
  EXPECT_FALSE(change.is_made());
}

TEST_F(TransportTest, ADeviceThatCannotGoOnAfterAChangeIsAnError) {
  start_driver();
  FakeChange change;
  device_.refuse = true;
  const auto made = transport_->change(change);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().message(),
            "fake is changed, but does not go on until its driver resets it: not today");
  EXPECT_TRUE(change.is_made());
  EXPECT_EQ(read(0x14, 1) & 64, 64u) << "DEVICE_NEEDS_RESET";
  device_.refuse = false;
  write(0x14, 1, 0);
  start_driver();
}

TEST_F(TransportTest, VectorsThatDoNotExistReadAsNone) {
  write(0x10, 2, 3);
  EXPECT_EQ(read(0x10, 2), 0xffffu);
  write(0x1a, 2, 2);
  EXPECT_EQ(read(0x1a, 2), 2u);
  write(0x16, 2, 7);
  EXPECT_EQ(read(0x18, 2), 0u) << "no queue 7";
}

TEST_F(TransportTest, ConfigurationWindowReachesTheBar) {
  unsigned at = find_capability(pci::kCapabilityVendor);
  while (at != 0 && transport_->read_config(at + 3, 1) != 5) {
    at = transport_->read_config(at + 1, 1);
  }
  ASSERT_NE(at, 0u);
  transport_->write_config(at + 8, 4, 0x12);
  transport_->write_config(at + 12, 4, 2);
  EXPECT_EQ(transport_->read_config(at + 16, 2), 2u) << "num_queues";
  transport_->write_config(at + 8, 4, 0xffff'ffff);
  (void)transport_->read_config(at + 16, 2);  // outside of the BAR: no crash
  // The last entry of the MSI-X table, from its last two bytes on.
  transport_->write_config(at + 8, 4, 0x4000 + 2 * 16 + 14);
  transport_->write_config(at + 12, 4, 4);
  transport_->write_config(at + 16, 4, 0);  // what reads answer where the BAR does not
  EXPECT_EQ(transport_->read_config(at + 16, 4), 0u) << "misaligned";
}

// Every register, every width, random values: the device may need a reset, nothing else happens.
TEST_F(TransportTest, SurvivesRandomAccesses) {
  std::uint64_t state = 1;
  const auto next = [&state] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 33;
  };
  for (int i = 0; i < 200000; ++i) {
    const unsigned size = 1u << (next() % 4);
    const std::uint64_t at = (next() % 2 != 0 ? next() % 0x8000 : next() % 0x38) & ~(size - 1ull);
    if (next() % 3 != 0) {
      write(at, size, next() << (next() % 32));
    } else {
      (void)read(at, size);
    }
  }
  write(0x14, 1, 0);
  EXPECT_EQ(read(0x14, 1), 0u) << "a reset mends whatever it was";
  EXPECT_TRUE(doorbells_.attached.empty());
}

}  // namespace
}  // namespace vmm::virtio
