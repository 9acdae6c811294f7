// DeviceSuite: what every virtio device must stand, whatever its kind. A device's own test file
// includes this (once a test program) and names how to make one:
//
//   class RngHarness : public DeviceHarness { ... Device& device() override { return *rng_; } };
//   INSTANTIATE_TEST_SUITE_P(Rng, DeviceSuite, ::testing::Values(DeviceKind{
//       "rng", [] { return std::make_unique<RngHarness>(); }}), DeviceKind::test_name);
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "devices/virtio/device.h"
#include "tests/support/virtio_driver.h"

namespace vmm::virtio {

// What becomes of a chain when its queue is kicked.
enum class QueueHandling {
  answers,  // taken and soon given back
  takes,    // taken, and maybe kept (buffers for what comes in later)
  ignores,  // maybe left in the queue
};

// Owns a device and all that it needs; the last thing destroyed is the guest's memory.
class DeviceHarness {
 public:
  virtual ~DeviceHarness() = default;
  virtual Device& device() = 0;
  virtual QueueHandling handling(std::size_t /*queue*/) const { return QueueHandling::answers; }
  test::GuestRam& ram() { return ram_; }

 private:
  test::GuestRam ram_{16u << 20};
};

struct DeviceKind {
  std::string name;
  std::function<std::unique_ptr<DeviceHarness>()> make;

  static std::string test_name(const ::testing::TestParamInfo<DeviceKind>& info) {
    return info.param.name;
  }
  friend void PrintTo(const DeviceKind& kind, std::ostream* out) { *out << kind.name; }
};

// Fails when it is used after the device gave its queues back.
class StrictInterrupts : public Interrupts {
 public:
  void queue_used(std::uint16_t) override { check("queue_used"); }
  void config_changed() override { check("config_changed"); }
  void needs_reset(std::string_view) override { check("needs_reset"); }
  Result<int> queue_event_fd(std::uint16_t queue) override { return inner_.queue_event_fd(queue); }
  void close() { closed_ = true; }

 private:
  void check(const char* what) const { EXPECT_FALSE(closed_) << what << " after deactivate()"; }
  std::atomic<bool> closed_{false};
  test::TestInterrupts inner_;
};

class DeviceSuite : public ::testing::TestWithParam<DeviceKind> {
 protected:
  // One set of rings for all queues of a fresh device.
  struct Guest {
    std::unique_ptr<DeviceHarness> harness;
    std::vector<std::unique_ptr<test::DriverQueue>> queues;
    test::TestInterrupts interrupts;

    Device& device() { return harness->device(); }
    std::vector<test::DriverQueue*> pointers() const {
      std::vector<test::DriverQueue*> all;
      for (const auto& queue : queues) all.push_back(queue.get());
      return all;
    }
    void activate(Interrupts& to) {
      const auto result = device().activate(
          test::activation_of(harness->ram().memory(), device().features(), pointers(), to));
      ASSERT_TRUE(result) << result.error().message();
    }
    void activate() { activate(interrupts); }
    ~Guest() {
      if (harness) (void)device().deactivate();
    }
  };

  std::unique_ptr<Guest> make() {
    auto guest = std::make_unique<Guest>();
    guest->harness = GetParam().make();
    for (const auto size : guest->device().queue_sizes()) {
      guest->queues.push_back(std::make_unique<test::DriverQueue>(
          guest->harness->ram(), std::min<std::uint16_t>(size, 64)));
    }
    return guest;
  }

  static std::vector<std::byte> config_bytes(const Device& device, std::uint64_t offset,
                                             std::size_t size) {
    std::vector<std::byte> bytes(size, std::byte{0xa5});
    device.read_config(offset, bytes);
    return bytes;
  }

  // Waits until the device did something about the queue.
  static void wait_for_reaction(Guest& guest, std::size_t queue, std::chrono::milliseconds limit) {
    const auto end = std::chrono::steady_clock::now() + limit;
    while (std::chrono::steady_clock::now() < end) {
      if (guest.interrupts.is_reset_needed() || guest.queues[queue]->used_index() != 0) return;
      std::this_thread::yield();
    }
  }

  // A chain that breaks the rules of rings, as `offer` lays it out.
  void expect_needs_reset(const char* what, const std::function<void(Guest&, std::size_t)>& offer) {
    const std::size_t count = make()->queues.size();
    for (std::size_t queue = 0; queue < count; ++queue) {
      SCOPED_TRACE(std::string(what) + ", queue " + std::to_string(queue));
      const auto guest = make();
      const bool taken = guest->harness->handling(queue) != QueueHandling::ignores;
      guest->activate();
      offer(*guest, queue);
      guest->queues[queue]->kick();
      wait_for_reaction(*guest, queue, std::chrono::milliseconds(taken ? 10'000 : 20));
      EXPECT_EQ(guest->queues[queue]->used_index(), 0) << "gave a bad chain back";
      EXPECT_TRUE(!taken || guest->interrupts.is_reset_needed());
      expect_life_after_reset(*guest);
    }
  }

  // A chain that is well made, with a content that no device likes.
  void expect_refused(const char* what, const std::function<void(Guest&, std::size_t)>& offer) {
    const std::size_t count = make()->queues.size();
    for (std::size_t queue = 0; queue < count; ++queue) {
      SCOPED_TRACE(std::string(what) + ", queue " + std::to_string(queue));
      const auto guest = make();
      const bool answered = guest->harness->handling(queue) == QueueHandling::answers;
      guest->activate();
      offer(*guest, queue);
      guest->queues[queue]->kick();
      wait_for_reaction(*guest, queue, std::chrono::milliseconds(answered ? 10'000 : 20));
      if (answered) {
        EXPECT_TRUE(guest->interrupts.is_reset_needed() || guest->queues[queue]->used_index() == 1);
      }
      expect_life_after_reset(*guest);
    }
  }

  // The driver resets the device and starts again, with new rings.
  static void expect_life_after_reset(Guest& guest) {
    const auto queues = guest.device().deactivate();
    EXPECT_EQ(queues.size(), guest.queues.size());
    std::vector<std::unique_ptr<test::DriverQueue>> fresh;
    std::vector<test::DriverQueue*> pointers;
    for (const auto& queue : guest.queues) {
      fresh.push_back(
          std::make_unique<test::DriverQueue>(guest.harness->ram(), queue->config().size));
      pointers.push_back(fresh.back().get());
    }
    test::TestInterrupts interrupts;
    EXPECT_TRUE(guest.device().activate(test::activation_of(
        guest.harness->ram().memory(), guest.device().features(), pointers, interrupts)));
    (void)guest.device().deactivate();
    EXPECT_FALSE(interrupts.is_reset_needed()) << interrupts.reason();
  }

  // An indirect table with `count` times the same buffer.
  static void offer_table(Guest& guest, std::size_t queue, std::uint32_t count,
                          std::uint32_t length, std::uint16_t flags) {
    auto& ram = guest.harness->ram();
    const auto table = ram.allocate(std::uint64_t{16} * count);
    for (std::uint32_t i = 0; i < count; ++i) {
      const bool last = i + 1 == count;
      const test::RawDescriptor entry{
          0x1000, length, static_cast<std::uint16_t>(flags | (last ? 0 : test::kDescNext)),
          static_cast<std::uint16_t>(i + 1)};
      std::memcpy(ram.host(table + std::uint64_t{16} * i, 16), &entry, 16);
    }
    guest.queues[queue]->set_descriptor(0, {table.value, 16 * count, test::kDescIndirect, 0});
    guest.queues[queue]->offer(0);
  }
};

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(DeviceSuite);

TEST_P(DeviceSuite, FeaturesAndQueuesAreStable) {
  const auto guest = make();
  Device& device = guest->device();
  const auto features = device.features();
  const auto sizes = device.queue_sizes();
  ASSERT_FALSE(sizes.empty());
  for (const auto size : sizes) {
    EXPECT_TRUE(std::has_single_bit(size)) << size;
    EXPECT_LE(size, kMaxQueueSize);
  }
  EXPECT_EQ(device.features(), features);
  guest->activate();
  EXPECT_EQ(device.features(), features);
  EXPECT_EQ(device.queue_sizes(), sizes);
  (void)device.deactivate();
  EXPECT_EQ(device.features(), features);
  EXPECT_EQ(GetParam().make()->device().features(), features);
}

TEST_P(DeviceSuite, MetricsAndStatusAreNamedOnce) {
  const auto harness = GetParam().make();
  auto& device = harness->device();
  const auto expect_names = [](const NamedValues& values) {
    std::vector<std::string> names;
    for (const auto& value : values) {
      EXPECT_FALSE(value.name.empty());
      EXPECT_EQ(std::ranges::find(names, value.name), names.end()) << value.name;
      names.push_back(value.name);
    }
  };
  EXPECT_FALSE(device.metrics().empty());
  expect_names(device.metrics());
  expect_names(device.status());
}

TEST_P(DeviceSuite, ConfigReadsPastTheEndAreZero) {
  const auto guest = make();
  const std::vector<std::byte> zeroes(64);
  EXPECT_EQ(config_bytes(guest->device(), 4096, 64), zeroes);
  EXPECT_EQ(config_bytes(guest->device(), std::numeric_limits<std::uint64_t>::max() - 3, 64),
            zeroes);
  const auto all = config_bytes(guest->device(), 0, 4096);
  EXPECT_TRUE(
      std::all_of(all.begin() + 1024, all.end(), [](std::byte b) { return b == std::byte{}; }));
  // Any width at any place shows the same bytes.
  for (std::size_t offset = 0; offset < 128; ++offset) {
    for (const std::size_t width : {1u, 2u, 4u, 8u}) {
      const std::vector<std::byte> expected(
          all.begin() + static_cast<std::ptrdiff_t>(offset),
          all.begin() + static_cast<std::ptrdiff_t>(offset + width));
      EXPECT_EQ(config_bytes(guest->device(), offset, width), expected) << offset << "+" << width;
    }
  }
}

TEST_P(DeviceSuite, ConfigWritesAnywhereAreHarmless) {
  const auto guest = make();
  guest->activate();
  const std::array<std::byte, 16> ones{std::byte{0xff}, std::byte{0xff}, std::byte{0xff}};
  for (const std::uint64_t offset :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{3}, std::uint64_t{7}, std::uint64_t{60},
        std::uint64_t{4096}, std::numeric_limits<std::uint64_t>::max()}) {
    for (std::size_t size = 0; size <= ones.size(); ++size) {
      guest->device().write_config(offset, std::span(ones).first(size));
    }
  }
  (void)config_bytes(guest->device(), 0, 256);
  EXPECT_FALSE(guest->interrupts.is_reset_needed()) << guest->interrupts.reason();
}

TEST_P(DeviceSuite, RefusesLoops) {
  expect_needs_reset("loop", [](Guest& guest, std::size_t queue) {
    guest.queues[queue]->set_descriptor(0, {0x1000, 16, test::kDescNext, 1});
    guest.queues[queue]->set_descriptor(1, {0x1000, 16, test::kDescNext, 0});
    guest.queues[queue]->offer(0);
  });
  expect_needs_reset("loop of one", [](Guest& guest, std::size_t queue) {
    guest.queues[queue]->set_descriptor(
        0, {0x1000, 16, static_cast<std::uint16_t>(test::kDescNext | test::kDescWrite), 0});
    guest.queues[queue]->offer(0);
  });
}

TEST_P(DeviceSuite, RefusesReadableBehindWritable) {
  expect_needs_reset("order", [](Guest& guest, std::size_t queue) {
    guest.queues[queue]->add({test::writable(16), test::readable("0123456789abcdef")});
  });
}

TEST_P(DeviceSuite, RefusesWhatIsOutsideOfMemory) {
  for (const std::uint64_t address :
       {std::uint64_t{16} << 20, (std::uint64_t{16} << 20) - 8, std::uint64_t{1} << 40,
        std::numeric_limits<std::uint64_t>::max() - 7}) {
    for (const std::uint16_t flags : {std::uint16_t{0}, test::kDescWrite}) {
      expect_needs_reset("address", [&](Guest& guest, std::size_t queue) {
        guest.queues[queue]->set_descriptor(0, {address, 16, flags, 0});
        guest.queues[queue]->offer(0);
      });
    }
  }
  expect_needs_reset("length", [](Guest& guest, std::size_t queue) {
    guest.queues[queue]->set_descriptor(0, {0x1000, 0xffff'ffff, test::kDescWrite, 0});
    guest.queues[queue]->offer(0);
  });
}

TEST_P(DeviceSuite, RefusesBadIndexes) {
  expect_needs_reset("head", [](Guest& guest, std::size_t queue) {
    guest.queues[queue]->offer(guest.queues[queue]->config().size);
  });
  expect_needs_reset("next", [](Guest& guest, std::size_t queue) {
    guest.queues[queue]->set_descriptor(0, {0x1000, 16, test::kDescNext, 0xffff});
    guest.queues[queue]->offer(0);
  });
  expect_needs_reset("avail index", [](Guest& guest, std::size_t queue) {
    guest.queues[queue]->set_avail_index(
        static_cast<std::uint16_t>(guest.queues[queue]->config().size + 1));
  });
}

TEST_P(DeviceSuite, RefusesBadIndirection) {
  expect_needs_reset("table length", [](Guest& guest, std::size_t queue) {
    guest.queues[queue]->set_descriptor(0, {0x1000, 17, test::kDescIndirect, 0});
    guest.queues[queue]->offer(0);
  });
  expect_needs_reset("empty table", [](Guest& guest, std::size_t queue) {
    guest.queues[queue]->set_descriptor(0, {0x1000, 0, test::kDescIndirect, 0});
    guest.queues[queue]->offer(0);
  });
  expect_needs_reset("nesting", [](Guest& guest, std::size_t queue) {
    offer_table(guest, queue, 1, 16, test::kDescIndirect);
  });
  expect_needs_reset("too many descriptors", [](Guest& guest, std::size_t queue) {
    offer_table(guest, queue, kMaxChainLength + 1, 16, 0);
  });
}

TEST_P(DeviceSuite, SurvivesOddContent) {
  for (const std::uint16_t flags : {std::uint16_t{0}, test::kDescWrite}) {
    expect_refused("zero length", [&](Guest& guest, std::size_t queue) {
      guest.queues[queue]->set_descriptor(0, {0x1000, 0, flags, 0});
      guest.queues[queue]->offer(0);
    });
    expect_refused("one byte", [&](Guest& guest, std::size_t queue) {
      guest.queues[queue]->set_descriptor(0, {0x1000, 1, flags, 0});
      guest.queues[queue]->offer(0);
    });
  }
  expect_refused("readable nonsense", [](Guest& guest, std::size_t queue) {
    guest.queues[queue]->add({test::readable(std::string(4096, '\xff'))});
  });
  expect_refused("both nonsense", [](Guest& guest, std::size_t queue) {
    guest.queues[queue]->add({test::readable(std::string(100, '\xff')), test::writable(3)});
  });
}

// The same eight megabytes a thousand times over: 8 GB that no request is entitled to.
TEST_P(DeviceSuite, SurvivesOversizedChains) {
  constexpr std::uint32_t kLength = 8u << 20;
  expect_refused("oversize readable", [](Guest& guest, std::size_t queue) {
    offer_table(guest, queue, 1000, kLength, 0);
  });
}

TEST_P(DeviceSuite, LeavesItsQueuesAloneUntilReset) {
  const std::size_t count = make()->queues.size();
  for (std::size_t queue = 0; queue < count; ++queue) {
    const auto guest = make();
    if (guest->harness->handling(queue) != QueueHandling::answers) continue;
    guest->activate();
    guest->queues[queue]->offer(guest->queues[queue]->config().size);
    guest->queues[queue]->kick();
    ASSERT_TRUE(guest->interrupts.wait_needs_reset());
    guest->queues[queue]->add({test::readable(std::string(16, '\0')), test::writable(513)});
    guest->queues[queue]->kick();
    wait_for_reaction(*guest, queue, std::chrono::milliseconds(1));
    (void)guest->device().deactivate();
    EXPECT_EQ(guest->queues[queue]->used_index(), 0);
  }
}

TEST_P(DeviceSuite, ResetWhileBusy) {
  const auto guest = make();
  for (int round = 0; round < 20; ++round) {
    StrictInterrupts interrupts;
    std::vector<std::unique_ptr<test::DriverQueue>> queues;
    std::vector<test::DriverQueue*> pointers;
    for (const auto& queue : guest->queues) {
      queues.push_back(
          std::make_unique<test::DriverQueue>(guest->harness->ram(), queue->config().size));
      pointers.push_back(queues.back().get());
      for (int i = 0; i < 16; ++i) {
        queues.back()->add({test::readable(std::string(16, '\0')), test::writable(513)});
      }
    }
    ASSERT_TRUE(guest->device().activate(test::activation_of(
        guest->harness->ram().memory(), guest->device().features(), pointers, interrupts)));
    for (auto* queue : pointers) queue->kick();
    if (round % 2 == 1) std::this_thread::yield();
    const auto returned = guest->device().deactivate();
    interrupts.close();
    ASSERT_EQ(returned.size(), pointers.size());
    for (auto* queue : pointers) queue->kick();
  }
}

TEST_P(DeviceSuite, ActivatesAgainAfterDeactivation) {
  const auto guest = make();
  std::vector<std::optional<Queue>> queues;
  for (int round = 0; round < 3; ++round) {
    guest->activate();
    for (const auto& queue : guest->queues) queue->kick();
    queues = guest->device().deactivate();
    ASSERT_EQ(queues.size(), guest->queues.size());
    for (std::size_t i = 0; i < queues.size(); ++i) {
      ASSERT_TRUE(queues[i]) << i;
      EXPECT_EQ(queues[i]->config().descriptors, guest->queues[i]->config().descriptors) << i;
      EXPECT_EQ(queues[i]->in_flight(), 0u) << i;
      EXPECT_EQ(queues[i]->next_avail(), 0) << i;
    }
  }
  EXPECT_FALSE(guest->interrupts.is_reset_needed()) << guest->interrupts.reason();
}

TEST_P(DeviceSuite, ServesWhereSomeQueuesAreNotEnabled) {
  const std::size_t count = make()->queues.size();
  for (std::size_t missing = 0; missing < count; ++missing) {
    const auto guest = make();
    auto pointers = guest->pointers();
    pointers[missing] = nullptr;
    // A device may refuse to start without a queue that it cannot do without.
    if (!guest->device().activate(test::activation_of(guest->harness->ram().memory(),
                                                      guest->device().features(), pointers,
                                                      guest->interrupts))) {
      continue;
    }
    for (const auto& queue : guest->queues) queue->kick();
    const auto queues = guest->device().deactivate();
    ASSERT_EQ(queues.size(), count);
    EXPECT_FALSE(queues[missing]);
  }
}

// What suspend() gave back, as it is activated with again.
inline Activation resumption(std::vector<std::optional<Queue>> queues, std::uint64_t features,
                             const std::vector<test::DriverQueue*>& driver,
                             Interrupts& interrupts) {
  Activation activation;
  activation.features = features;
  activation.interrupts = &interrupts;
  activation.resumed = true;
  for (std::size_t i = 0; i < queues.size(); ++i) {
    activation.queues.emplace_back();
    if (queues[i]) activation.queues[i] = ActiveQueue{std::move(*queues[i]), &driver[i]->kick_fd()};
  }
  return activation;
}

inline std::vector<std::byte> saved_bytes(const Device& device) {
  state::Sections sections;
  device.save(sections, "device");
  return sections.to_bytes().value();
}

// Whatever a device is doing when it is suspended: each chain comes back once, before or after.
TEST_P(DeviceSuite, LosesAndDoublesNothingOverSuspensions) {
  const auto guest = make();
  const auto pointers = guest->pointers();
  guest->activate();
  std::vector<std::vector<int>> returned(pointers.size());
  constexpr int kChains = 12;
  for (auto& list : returned) list.resize(kMaxQueueSize);
  std::vector<int> offered(pointers.size());
  for (int round = 0; round < kChains; ++round) {
    for (std::size_t i = 0; i < pointers.size(); ++i) {
      if (2 * (offered[i] + 1) > pointers[i]->config().size) continue;  // heads are used once
      pointers[i]->add({test::readable(std::string(16, '\xff')), test::writable(513)});
      ++offered[i];
      pointers[i]->kick();
    }
    if (guest->interrupts.is_reset_needed()) return;  // such chains are not to its taste
    if (round % 3 != 2) continue;
    auto queues = guest->device().suspend();
    ASSERT_EQ(queues.size(), pointers.size());
    for (std::size_t i = 0; i < queues.size(); ++i) {
      ASSERT_TRUE(queues[i]) << i;
      EXPECT_EQ(queues[i]->in_flight(), 0u) << i;
      EXPECT_EQ(queues[i]->next_used(), pointers[i]->used_index()) << i;
      EXPECT_EQ(queues[i]->next_avail(), queues[i]->next_used()) << "taken, and not given back";
      // As a restore does: the positions alone are kept.
      auto again = Queue::create(guest->harness->ram().memory(), queues[i]->config(),
                                 guest->device().features());
      ASSERT_TRUE(again);
      again->set_position(queues[i]->next_avail(), queues[i]->next_used());
      queues[i] = std::move(*again);
    }
    ASSERT_TRUE(guest->device().activate(
        resumption(std::move(queues), guest->device().features(), pointers, guest->interrupts)));
  }
  for (std::size_t i = 0; i < pointers.size(); ++i) {
    const bool answers = guest->harness->handling(i) == QueueHandling::answers;
    for (int n = 0; n < offered[i]; ++n) {
      const auto used = answers ? pointers[i]->wait_used() : pointers[i]->poll_used();
      if (!used && !answers) break;
      if (guest->interrupts.is_reset_needed()) return;
      ASSERT_TRUE(used) << "chain " << n << " of queue " << i << " is lost";
      EXPECT_EQ(returned[i][used->head]++, 0) << "chain " << used->head << " came back twice";
    }
  }
}

TEST_P(DeviceSuite, IsSavedAndRestoredTheSame) {
  const auto guest = make();
  guest->activate();
  for (const auto& queue : guest->queues) queue->kick();
  auto queues = guest->device().suspend();
  const auto bytes = saved_bytes(guest->device());
  EXPECT_EQ(saved_bytes(guest->device()), bytes);

  const auto other = make();
  auto sections = state::Sections::from_bytes(bytes);
  ASSERT_TRUE(sections);
  const auto restored = other->device().restore(*sections, "device");
  ASSERT_TRUE(restored) << restored.error().message();
  EXPECT_TRUE(sections->check_all_taken());
  EXPECT_EQ(saved_bytes(other->device()).size(), bytes.size());
  EXPECT_EQ(config_bytes(other->device(), 16, 64), config_bytes(guest->device(), 16, 64));

  // The original goes on.
  ASSERT_TRUE(guest->device().activate(resumption(std::move(queues), guest->device().features(),
                                                  guest->pointers(), guest->interrupts)));
  EXPECT_FALSE(guest->interrupts.is_reset_needed()) << guest->interrupts.reason();
}

struct ForeignState {
  static constexpr std::string_view kKind = "foreign";
  static constexpr std::uint32_t kVersion = 1;
  template <typename Archive>
  void fields(Archive&) {}
};

TEST_P(DeviceSuite, RefusesStatesThatAreNotItsOwn) {
  const auto guest = make();
  state::Sections none;
  EXPECT_FALSE(guest->device().restore(none, "device"));
  state::Sections foreign;
  foreign.put("device", ForeignState{});
  EXPECT_FALSE(guest->device().restore(foreign, "device"));
}

TEST_P(DeviceSuite, IsDestroyedWhileSuspended) {
  const auto guest = make();
  guest->activate();
  (void)guest->device().suspend();
  guest->harness.reset();
  SUCCEED();
}

TEST_P(DeviceSuite, IsDestroyedWhileActive) {
  const auto guest = make();
  guest->activate();
  for (const auto& queue : guest->queues) {
    queue->add({test::readable(std::string(16, '\0')), test::writable(513)});
    queue->kick();
  }
  guest->harness.reset();
  SUCCEED();
}

}  // namespace vmm::virtio
