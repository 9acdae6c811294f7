#include "devices/virtio/blk/block_device.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>

#include "devices/virtio/blk/block_driver_for_test.h"
#include "devices/virtio/device_suite_test.h"
#include "src/disk/qcow2/create.h"
#include "src/disk/temporary_file.h"

namespace vmm::virtio {
namespace {

using namespace blk;
using disk::DiskConfig;
using disk::IoEngine;
using test::DriverQueue;
using test::readable;
using test::TemporaryDirectory;
using test::TestInterrupts;
using test::writable;

constexpr std::size_t kSize = 4u << 20;
constexpr std::uint64_t kSectors = kSize / 512;

struct Answer {
  Status status{};
  std::uint32_t written = 0;
  std::string data;
};

// A device with its driver.
class BlockRig {
  static constexpr std::uint64_t kMemory = 128u << 20;
  static constexpr std::uint16_t kRing = 256;

 public:
  explicit BlockRig(DiskConfig config = {}, const char* parent = test::kOnDisk,
                    std::uint16_t queues = 1)
      : directory_(parent), path_(directory_.file("disk", kSize)), driver_(kMemory, queues, kRing) {
    config.path = path_;
    config.queues = queues;
    device_ = std::move(BlockDevice::create(config, "blk0").value());
  }
  explicit BlockRig(std::unique_ptr<BlockDevice> device)
      : driver_(kMemory, 1, kRing), device_(std::move(device)) {}
  ~BlockRig() { (void)device_->deactivate(); }

  void activate() { activate(device_->features()); }
  void activate(std::uint64_t features) { driver_.activate(*device_, features); }
  void restart_with_new_rings() {
    (void)device_->deactivate();
    driver_.make_rings();
    activate();
  }

  DriverQueue& queue(std::size_t index = 0) { return driver_.ring(index); }
  BlockDevice& device() { return *device_; }
  TestInterrupts& interrupts() { return driver_.interrupts(); }
  test::GuestRam& ram() { return driver_.ram(); }
  const std::string& path() const { return path_; }

  // Sends a chain whose last buffer ends with the status byte, and waits for it.
  Answer send(const std::vector<test::BufferSpec>& buffers, std::size_t index = 0) {
    auto& driver = queue(index);
    const auto head = driver_.ask(buffers, index);
    const auto used = driver.wait_used();
    EXPECT_TRUE(used) << interrupts().reason();
    if (!used) return {};
    EXPECT_EQ(used->head, head);
    Answer answer;
    answer.written = used->written;
    std::string all;
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      if (buffers[i].writable) all += driver.text(head, i);
    }
    answer.status = static_cast<Status>(all.back());
    answer.data = all.substr(0, all.size() - 1);
    return answer;
  }
  static test::BufferSpec header(std::uint32_t type, std::uint64_t sector = 0) {
    return BlockDriver::header(type, sector);
  }
  Answer read(std::uint64_t sector, std::uint32_t length, std::size_t index = 0) {
    return send({header(kTypeIn, sector), writable(length), writable(1)}, index);
  }
  Status write(std::uint64_t sector, const std::string& data, std::size_t index = 0) {
    return send({header(kTypeOut, sector), readable(data), writable(1)}, index).status;
  }
  Status flush() { return send({header(kTypeFlush), writable(1)}).status; }
  Status segments(std::uint32_t type, const std::vector<Segment>& list) {
    std::string data(reinterpret_cast<const char*>(list.data()), list.size() * sizeof(Segment));
    return send({header(type), readable(data), writable(1)}).status;
  }
  void expect_needs_reset(const std::vector<test::BufferSpec>& buffers) {
    driver_.ask(buffers);
    EXPECT_TRUE(interrupts().wait_needs_reset());
    EXPECT_EQ(queue().used_index(), 0);
    EXPECT_EQ(device_->deactivate()[0]->in_flight(), 0u) << "it is not back in its ring";
  }

 private:
  TemporaryDirectory directory_;
  std::string path_;
  BlockDriver driver_;
  std::unique_ptr<BlockDevice> device_;
};

const std::string kPattern = TemporaryDirectory::pattern(kSize);

struct Way {
  const char* name;
  const char* parent;
  IoEngine io;
};
class BlockTest : public ::testing::TestWithParam<Way> {
 protected:
  BlockRig rig_{{.io = GetParam().io}, GetParam().parent};
};
INSTANTIATE_TEST_SUITE_P(Ways, BlockTest,
                         ::testing::Values(Way{"Memory", test::kInMemory, IoEngine::automatic},
                                           Way{"Disk", test::kOnDisk, IoEngine::automatic},
                                           Way{"Uring", test::kOnDisk, IoEngine::uring},
                                           Way{"Threads", test::kOnDisk, IoEngine::threads}),
                         [](const auto& way) { return std::string(way.param.name); });

TEST_P(BlockTest, ReadsAndWrites) {
  rig_.activate();
  const auto answer = rig_.read(3, 4096);
  EXPECT_EQ(answer.status, Status::ok);
  EXPECT_EQ(answer.written, 4097u);
  EXPECT_EQ(answer.data, kPattern.substr(3 * 512, 4096));
  const std::string text(8192, 'w');
  EXPECT_EQ(rig_.write(100, text), Status::ok);
  EXPECT_EQ(rig_.read(100, 8192).data, text);
  EXPECT_EQ(rig_.read(kSectors - 1, 512).data, kPattern.substr(kSize - 512));
  EXPECT_EQ(rig_.flush(), Status::ok);
  EXPECT_EQ(TemporaryDirectory::content(rig_.path()).substr(100 * 512, 8192), text);
  const auto statistics = rig_.device().statistics();
  EXPECT_EQ(statistics.reads, 3u);
  EXPECT_EQ(statistics.bytes_read, 4096u + 8192u + 512u);
  EXPECT_EQ(statistics.writes, 1u);
  EXPECT_EQ(statistics.bytes_written, 8192u);
  EXPECT_EQ(statistics.flushes, 1u);
  EXPECT_EQ(statistics.errors, 0u);
}

TEST_P(BlockTest, InterruptsTheDriver) {
  rig_.activate();
  EXPECT_EQ(rig_.read(0, 512).status, Status::ok);
  EXPECT_TRUE(rig_.interrupts().wait_queue_used(0));
}

TEST_P(BlockTest, TakesAnyLayout) {
  rig_.activate();
  // Header in three pieces, data in odd pieces, the status behind data in one descriptor.
  const RequestHeader header{kTypeIn, 0, 8};
  const std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  auto answer = rig_.send({readable(bytes.substr(0, 1)), readable(bytes.substr(1, 10)),
                           readable(bytes.substr(11)), writable(100), writable(413)});
  EXPECT_EQ(answer.status, Status::ok);
  EXPECT_EQ(answer.data, kPattern.substr(8 * 512, 512));
  // Header and data of a write in one descriptor.
  const RequestHeader out{kTypeOut, 0, 9};
  const std::string data(512, 'q');
  answer = rig_.send(
      {readable(std::string(reinterpret_cast<const char*>(&out), sizeof out) + data), writable(1)});
  EXPECT_EQ(answer.status, Status::ok);
  EXPECT_EQ(rig_.read(9, 512).data, data);
  // An empty descriptor behind the status.
  answer = rig_.send({BlockRig::header(kTypeFlush), writable(1)});
  EXPECT_EQ(answer.status, Status::ok);
}

TEST_P(BlockTest, TakesIndirectTables) {
  rig_.activate();
  auto& driver = rig_.queue();
  const auto head = driver.add_indirect(
      {BlockRig::header(kTypeIn, 1), writable(512), writable(512), writable(1)});
  driver.kick();
  ASSERT_TRUE(driver.wait_used());
  EXPECT_EQ(driver.text(head, 1) + driver.text(head, 2), kPattern.substr(512, 1024));
  EXPECT_EQ(driver.text(head, 3), std::string(1, '\0'));
}

TEST_P(BlockTest, ZeroesAndDiscards) {
  rig_.activate();
  EXPECT_EQ(rig_.segments(kTypeWriteZeroes, {{8, 16, 0}, {64, 8, kSegmentUnmap}}), Status::ok);
  EXPECT_EQ(rig_.read(8, 8192).data, std::string(8192, '\0'));
  EXPECT_EQ(rig_.read(64, 4096).data, std::string(4096, '\0'));
  EXPECT_EQ(rig_.read(24, 512).data, kPattern.substr(24 * 512, 512));
  EXPECT_EQ(rig_.segments(kTypeDiscard, {{2048, 2048, 0}}), Status::ok);
  EXPECT_EQ(rig_.read(4096, 512).data, kPattern.substr(4096 * 512, 512));
  const auto statistics = rig_.device().statistics();
  EXPECT_EQ(statistics.discards, 1u);
  EXPECT_EQ(statistics.write_zeroes, 1u);
}

TEST_P(BlockTest, RandomRequestsMatchAModel) {
  rig_.activate();
  std::string model = kPattern;
  std::mt19937 random(11);
  for (int i = 0; i < 60; ++i) {
    const std::uint64_t sector = random() % kSectors;
    const auto count =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(1 + random() % 64, kSectors - sector));
    const std::uint32_t length = count * 512;
    switch (random() % 4) {
      case 0:
        EXPECT_EQ(rig_.read(sector, length).data, model.substr(sector * 512, length)) << i;
        break;
      case 1: {
        const std::string text(length, static_cast<char>(i));
        EXPECT_EQ(rig_.write(sector, text), Status::ok) << i;
        model.replace(sector * 512, length, text);
        break;
      }
      case 2:
        EXPECT_EQ(
            rig_.segments(kTypeWriteZeroes, {{sector, count, i % 2 == 0 ? 0u : kSegmentUnmap}}),
            Status::ok)
            << i;
        model.replace(sector * 512, length, std::string(length, '\0'));
        break;
      default:
        EXPECT_EQ(rig_.flush(), Status::ok);
    }
  }
  (void)rig_.device().deactivate();
  EXPECT_EQ(TemporaryDirectory::content(rig_.path()), model);
}

TEST_P(BlockTest, ManyRequestsInFlight) {
  rig_.activate();
  auto& driver = rig_.queue();
  constexpr std::size_t kCount = 85;  // three descriptors each
  std::vector<std::uint16_t> heads;
  for (std::size_t i = 0; i < kCount; ++i) {
    heads.push_back(driver.add({BlockRig::header(kTypeIn, i * 8), writable(4096), writable(1)}));
  }
  driver.kick();
  for (std::size_t i = 0; i < kCount; ++i) ASSERT_TRUE(driver.wait_used()) << i;
  for (std::size_t i = 0; i < kCount; ++i) {
    EXPECT_EQ(driver.text(heads[i], 1), kPattern.substr(i * 4096, 4096)) << i;
    EXPECT_EQ(driver.text(heads[i], 2), std::string(1, '\0')) << i;
  }
}

TEST_P(BlockTest, DeactivateWaitsForWhatIsInFlight) {
  for (int round = 0; round < 10; ++round) {
    rig_.activate();
    auto& driver = rig_.queue();
    std::vector<std::uint16_t> heads;
    for (std::uint64_t i = 0; i < 16; ++i) {
      heads.push_back(driver.add(
          {BlockRig::header(kTypeOut, i * 128), readable(std::string(65536, 'd')), writable(1)}));
      if (i == 8) driver.kick();
    }
    const auto queues = rig_.device().deactivate();
    ASSERT_EQ(queues.size(), 1u);
    ASSERT_TRUE(queues[0]);
    EXPECT_EQ(queues[0]->in_flight(), 0u);
    // What was taken was answered.
    EXPECT_EQ(queues[0]->next_avail(), queues[0]->next_used());
    EXPECT_EQ(driver.used_index(), queues[0]->next_used());
    rig_.restart_with_new_rings();
    EXPECT_EQ(rig_.read(0, 512).status, Status::ok);
    (void)rig_.device().deactivate();
  }
}

// A guest that never lets the queue run dry does not keep the device from stopping.
TEST_P(BlockTest, DeactivatesUnderASteadyStream) {
  rig_.activate();
  auto& driver = rig_.queue();
  const auto head =
      driver.add({BlockRig::header(kTypeOut), readable(std::string(512, 's')), writable(1)});
  std::atomic<bool> stop{false};
  std::thread guest([&] {
    std::uint16_t offered = 1;
    while (!stop) {
      if (static_cast<std::uint16_t>(offered - driver.used_index()) >= 64) continue;
      driver.offer(head);
      driver.kick();
      ++offered;
    }
  });
  // In the middle of it, however long the worker took to start.
  while (driver.used_index() == 0) std::this_thread::yield();
  const auto queues = rig_.device().deactivate();
  stop = true;
  guest.join();
  EXPECT_EQ(queues[0]->in_flight(), 0u);
}

// Neither does one that offers more than its queue holds, and gets all of it.
TEST_P(BlockTest, ServesADriverThatOffersTooMuch) {
  rig_.activate();
  auto& driver = rig_.queue();
  const auto head =
      driver.add({BlockRig::header(kTypeOut), readable(std::string(65536, 's')), writable(1)});
  for (int i = 1; i < 256; ++i) driver.offer(head);
  driver.kick();
  while (driver.used_index() == 0) std::this_thread::yield();
  for (int i = 0; i < 200; ++i) {  // 256 may still be in flight
    while (static_cast<std::uint16_t>(256 + i - driver.used_index()) > 255) {
      std::this_thread::yield();
    }
    driver.offer(head);
    driver.kick();
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (driver.used_index() != 456 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_EQ(driver.used_index(), 456);
}

TEST_P(BlockTest, WithoutFlushWritesAreDurable) {
  rig_.activate(rig_.device().features() & ~kFeatureFlush);
  EXPECT_EQ(rig_.write(0, std::string(4096, 's')), Status::ok);
  EXPECT_EQ(rig_.flush(), Status::unsupported) << "not negotiated";
}

class BlockRules : public ::testing::Test {
 protected:
  BlockRig rig_;
};

TEST_F(BlockRules, RefusesWhatIsOutOfRange) {
  rig_.activate();
  const std::string sector(512, 'x');
  EXPECT_EQ(rig_.read(kSectors, 512).status, Status::io_error);
  EXPECT_EQ(rig_.read(kSectors - 1, 1024).status, Status::io_error);
  EXPECT_EQ(rig_.read(~std::uint64_t{0}, 512).status, Status::io_error);
  EXPECT_EQ(rig_.read(~std::uint64_t{0} / 512 + 1, 512).status, Status::io_error) << "wraps to 0";
  EXPECT_EQ(rig_.write(kSectors, sector), Status::io_error);
  EXPECT_EQ(rig_.write(1ull << 55, sector), Status::io_error);
  EXPECT_EQ(rig_.segments(kTypeDiscard, {{kSectors - 1, 2, 0}}), Status::io_error);
  EXPECT_EQ(rig_.segments(kTypeWriteZeroes, {{~std::uint64_t{0}, 8, 0}}), Status::io_error);
  EXPECT_EQ(rig_.segments(kTypeWriteZeroes, {{0, 0, 0}}), Status::io_error);
  EXPECT_EQ(rig_.segments(kTypeDiscard, {{0, ~0u, 0}}), Status::io_error);
  // Nothing of a request is done when a part of it is wrong.
  EXPECT_EQ(rig_.segments(kTypeWriteZeroes, {{0, 8, 0}, {kSectors, 8, 0}}), Status::io_error);
  EXPECT_EQ(rig_.read(0, 512).data, kPattern.substr(0, 512));
  EXPECT_EQ(rig_.device().statistics().errors, 11u);
  EXPECT_FALSE(rig_.interrupts().is_reset_needed());
}

TEST_F(BlockRules, RefusesOddLengthsAndDirections) {
  rig_.activate();
  EXPECT_EQ(rig_.read(0, 511).status, Status::io_error);
  EXPECT_EQ(rig_.write(0, std::string(513, 'x')), Status::io_error);
  EXPECT_EQ(rig_.send({BlockRig::header(kTypeIn), writable(1)}).status, Status::io_error)
      << "empty";
  EXPECT_EQ(
      rig_.send({BlockRig::header(kTypeIn), readable(std::string(512, 'x')), writable(1)}).status,
      Status::io_error);
  EXPECT_EQ(rig_.send({BlockRig::header(kTypeOut), writable(513)}).status, Status::io_error);
  EXPECT_EQ(rig_.send({BlockRig::header(kTypeDiscard), readable("0123456789"), writable(1)}).status,
            Status::io_error);
  EXPECT_EQ(rig_.segments(kTypeDiscard, std::vector<Segment>(kMaxSegments + 1, Segment{0, 8, 0})),
            Status::io_error);
  EXPECT_EQ(rig_.read(0, 512).written, 513u) << "and goes on";
}

TEST_F(BlockRules, RefusesWhatItDoesNotKnow) {
  rig_.activate();
  for (const std::uint32_t type : {2u, 3u, 5u, 14u, 0x8000'0000u, 0x8000'0001u, ~0u}) {
    EXPECT_EQ(rig_.send({BlockRig::header(type), writable(1)}).status, Status::unsupported) << type;
  }
  EXPECT_EQ(rig_.segments(kTypeDiscard, {{0, 8, kSegmentUnmap}}), Status::unsupported);
  EXPECT_EQ(rig_.segments(kTypeWriteZeroes, {{0, 8, 2}}), Status::unsupported);
}

TEST_F(BlockRules, RefusesWhatWasNotNegotiated) {
  rig_.activate(kFeatureFlush);
  EXPECT_EQ(rig_.segments(kTypeDiscard, {{0, 8, 0}}), Status::unsupported);
  EXPECT_EQ(rig_.segments(kTypeWriteZeroes, {{0, 8, 0}}), Status::unsupported);
}

TEST_F(BlockRules, ShortHeaderNeedsReset) {
  rig_.activate();
  rig_.expect_needs_reset({readable("0123456789abcde"), writable(513)});
}

TEST_F(BlockRules, NoStatusByteNeedsReset) {
  rig_.activate();
  rig_.expect_needs_reset({BlockRig::header(kTypeOut), readable(std::string(512, 'x'))});
}

TEST_F(BlockRules, EmptyStatusNeedsReset) {
  rig_.activate();
  rig_.expect_needs_reset({BlockRig::header(kTypeFlush), writable(0)});
}

TEST_F(BlockRules, ServesAgainAfterReset) {
  rig_.activate();
  rig_.expect_needs_reset({writable(1)});
  rig_.restart_with_new_rings();
  EXPECT_EQ(rig_.read(0, 512).data, kPattern.substr(0, 512));
}

// 1000 times the same page, a request of 4 MB: more than one request of a sane driver, and legal.
TEST_F(BlockRules, TakesLongChains) {
  rig_.activate();
  std::vector<test::BufferSpec> buffers{BlockRig::header(kTypeIn, 0)};
  for (int i = 0; i < 254; ++i) buffers.push_back(writable(4096));
  buffers.push_back(writable(1));
  const auto answer = rig_.send(buffers);
  EXPECT_EQ(answer.status, Status::ok);
  EXPECT_EQ(answer.data, kPattern.substr(0, 254 * 4096));
}

TEST_F(BlockRules, TellsItsConfiguration) {
  Config config;
  rig_.device().read_config(0, std::as_writable_bytes(std::span(&config, 1)));
  EXPECT_EQ(config.capacity, kSectors);
  EXPECT_EQ(config.seg_max, 254u);
  EXPECT_EQ(config.block_size, 512u);
  EXPECT_EQ(config.physical_block_exponent, 3);
  EXPECT_EQ(config.num_queues, 1);
  EXPECT_EQ(config.max_discard_segments, kMaxSegments);
  EXPECT_EQ(config.discard_sector_alignment, 8u);
  const auto features = rig_.device().features();
  EXPECT_TRUE(features & kFeatureFlush);
  EXPECT_TRUE(features & kFeatureDiscard);
  EXPECT_TRUE(features & kFeatureEventIdx);
  EXPECT_FALSE(features & kFeatureReadOnly);
  EXPECT_FALSE(features & kFeatureMultiQueue);
}

TEST(BlockDevice, GivesItsSerialNumber) {
  BlockRig rig({.serial = "root-0001"});
  rig.activate();
  auto answer = rig.send({BlockRig::header(kTypeGetId), writable(20), writable(1)});
  EXPECT_EQ(answer.status, Status::ok);
  EXPECT_EQ(answer.written, 21u);
  EXPECT_EQ(answer.data, std::string("root-0001") + std::string(11, '\0'));
  answer = rig.send({BlockRig::header(kTypeGetId), writable(5)});
  EXPECT_EQ(answer.data, "root");
  answer = rig.send({BlockRig::header(kTypeGetId), writable(1)});
  EXPECT_EQ(answer.status, Status::io_error);
}

TEST(BlockDevice, ReadOnly) {
  BlockRig rig({.read_only = true});
  EXPECT_TRUE(rig.device().features() & kFeatureReadOnly);
  EXPECT_FALSE(rig.device().features() & (kFeatureDiscard | kFeatureWriteZeroes));
  // As a hostile driver has it: everything negotiated.
  rig.activate(rig.device().features() | kFeatureDiscard | kFeatureWriteZeroes);
  EXPECT_EQ(rig.write(0, std::string(512, 'x')), Status::io_error);
  EXPECT_EQ(rig.segments(kTypeDiscard, {{0, 8, 0}}), Status::io_error);
  EXPECT_EQ(rig.segments(kTypeWriteZeroes, {{0, 8, 0}}), Status::io_error);
  EXPECT_EQ(rig.read(0, 512).data, kPattern.substr(0, 512));
  EXPECT_EQ(rig.flush(), Status::ok);
}

TEST(BlockDevice, SeveralQueues) {
  BlockRig rig({}, test::kOnDisk, 3);
  EXPECT_TRUE(rig.device().features() & kFeatureMultiQueue);
  EXPECT_EQ(rig.device().queue_sizes(), (std::vector<std::uint16_t>{256, 256, 256}));
  rig.activate();
  for (std::size_t queue = 0; queue < 3; ++queue) {
    EXPECT_EQ(rig.write(queue * 8, std::string(4096, static_cast<char>('a' + queue)), queue),
              Status::ok);
  }
  for (std::size_t queue = 0; queue < 3; ++queue) {
    EXPECT_EQ(rig.read(((queue + 1) % 3) * 8, 512, queue).data,
              std::string(512, static_cast<char>('a' + (queue + 1) % 3)));
    EXPECT_TRUE(rig.interrupts().wait_queue_used(static_cast<std::uint16_t>(queue)));
  }
}

TEST(BlockDevice, KeepsToItsRateLimit) {
  DiskConfig config;
  config.limits.operations_per_second = 200;
  config.limits.burst_operations = 10;
  BlockRig rig(config);
  rig.activate();
  const auto start = std::chrono::steady_clock::now();
  auto& driver = rig.queue();
  for (std::uint64_t i = 0; i < 60; ++i) {
    driver.add({BlockRig::header(kTypeIn, i), writable(512), writable(1)});
  }
  driver.kick();
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(driver.wait_used()) << i;
  const auto took = std::chrono::steady_clock::now() - start;
  EXPECT_GE(took, std::chrono::milliseconds(245)) << "50 at 200 a second";
  EXPECT_GE(rig.device().statistics().throttled, 1u);
}

// Time that the limit of a disk takes for a read, when what was done before is charged.
void expect_next_read_waits(BlockRig& rig) {
  EXPECT_EQ(rig.device().statistics().throttled, 0u);
  EXPECT_EQ(rig.read(0, 512).status, Status::ok);
  EXPECT_GE(rig.device().statistics().throttled, 1u);
}

TEST(BlockDevice, ZeroesAndDiscardsCostTheirLength) {
  for (const auto type : {kTypeDiscard, kTypeWriteZeroes}) {
    DiskConfig config;
    config.limits.bytes_per_second = 10 * kSize;
    config.limits.burst_bytes = 1;
    BlockRig rig(config);
    rig.activate();
    EXPECT_EQ(rig.segments(type, {{0, kSectors / 2, 0}, {kSectors / 2, kSectors / 2, 0}}),
              Status::ok);
    expect_next_read_waits(rig);
  }
}

// A sector written to a new cluster copies the rest of it from the file behind.
TEST(BlockDevice, WhatIsCopiedForTheGuestCosts) {
  const TemporaryDirectory directory;
  directory.file("base", kSize);
  DiskConfig config{.path = directory.path() + "/top", .format = disk::ImageFormat::qcow2};
  ASSERT_TRUE(disk::qcow2::create_image(
      {.path = config.path, .backing_path = "base", .backing_format = disk::ImageFormat::raw}));
  constexpr std::uint64_t kCopied = (64u << 10) - 512;
  config.limits.bytes_per_second = 10 * kCopied;  // a tenth of a second for one copy
  config.limits.burst_bytes = 1;
  BlockRig rig(std::move(BlockDevice::create(config, "blk0").value()));
  rig.activate();
  // From before the write: this thread may be late to see its end.
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(rig.write(10, std::string(512, 'w')), Status::ok);
  EXPECT_EQ(rig.device().disk().copied_bytes(), kCopied);
  EXPECT_EQ(rig.read(10, 512).data, std::string(512, 'w'));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(80));
}

TEST(BlockDevice, FailuresAreNotAllLogged) {
  blk::FailureLog failures;
  std::size_t lines = 0;
  for (unsigned i = 1; i <= 1u << 20; ++i) {
    const auto count = failures.note();
    if (!count) continue;
    EXPECT_EQ(*count, i);
    ++lines;
  }
  EXPECT_EQ(lines, 10u + 17u);  // 16, 32, ... 2^20
}

// A disk that works on what it is given until it is told to complete it.
class HeldDisk : public disk::Disk {
 public:
  const disk::DiskInfo& info() const override { return info_; }
  const std::string& name() const override { return name_; }
  std::unique_ptr<disk::Channel> open_channel(EventLoop& loop,
                                              std::function<void()> ready) override {
    loop_ = &loop;
    ready_ = std::move(ready);
    return std::make_unique<HeldChannel>(*this);
  }
  Result<void> sync() override { return {}; }
  Result<void> read(std::uint64_t, std::span<std::byte>) override { return {}; }

  // False when so many did not come.
  bool wait_held(std::size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return held_.size() >= count; });
  }
  std::uint64_t most_bytes() {
    std::lock_guard lock(mutex_);
    return most_bytes_;
  }
  std::size_t complete() {
    std::lock_guard lock(mutex_);
    const std::size_t count = held_.size();
    for (const auto& request : held_) done_.push_back({request.tag, 0});
    held_.clear();
    bytes_ = 0;
    loop_->post(ready_);
    return count;
  }

 private:
  struct HeldChannel : disk::Channel {
    explicit HeldChannel(HeldDisk& d) : disk(d) {}
    void submit(const disk::Request& request) override {
      std::lock_guard lock(disk.mutex_);
      disk.held_.push_back(request);
      disk.bytes_ += request.length;
      disk.most_bytes_ = std::max(disk.most_bytes_, disk.bytes_);
      disk.changed_.notify_all();
    }
    void commit() override {}
    std::span<const disk::Completion> reap() override {
      std::lock_guard lock(disk.mutex_);
      reaped.swap(disk.done_);
      disk.done_.clear();
      return reaped;
    }
    void wait() override { disk.complete(); }
    HeldDisk& disk;
    std::vector<disk::Completion> reaped;
  };

  disk::DiskInfo info_{.size = 1ull << 40, .can_discard = true, .can_write_zeroes = true};
  std::string name_ = "held";
  EventLoop* loop_ = nullptr;
  std::function<void()> ready_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::vector<disk::Request> held_;
  std::vector<disk::Completion> done_;
  std::uint64_t bytes_ = 0, most_bytes_ = 0;
};

// What a stop of the machine waits for has a bound, however much the guest asks for.
TEST(BlockDevice, BytesInFlightAreBounded) {
  auto owned = std::make_unique<HeldDisk>();
  auto& held = *owned;
  BlockRig rig(std::move(BlockDevice::create(std::move(owned), {}, "blk0").value()));
  rig.activate();
  constexpr std::uint32_t kMebibyte = 1u << 20;
  constexpr std::size_t kReads = 75, kFit = blk::kMaxInFlight / kMebibyte;
  for (std::size_t i = 0; i < kReads; ++i) {
    rig.queue().add({BlockRig::header(kTypeIn), writable(kMebibyte), writable(1)});
  }
  rig.queue().kick();
  ASSERT_TRUE(held.wait_held(kFit));
  EXPECT_EQ(held.most_bytes(), blk::kMaxInFlight);
  for (std::size_t done = 0; done < kReads;) {
    ASSERT_TRUE(held.wait_held(1));
    for (std::size_t count = held.complete(); count > 0; --count, ++done) {
      ASSERT_TRUE(rig.queue().wait_used());
    }
  }
  EXPECT_EQ(held.most_bytes(), blk::kMaxInFlight);
  // What is more than that by itself goes alone.
  const std::vector<Segment> whole{{0, blk::kMaxDiscardSectors, 0}};
  const std::string data(reinterpret_cast<const char*>(whole.data()), sizeof(Segment));
  for (int i = 0; i < 3; ++i) {
    rig.queue().add({BlockRig::header(kTypeDiscard), readable(data), writable(1)});
  }
  rig.queue().kick();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(held.wait_held(1));
    EXPECT_EQ(held.complete(), 1u);
    ASSERT_TRUE(rig.queue().wait_used());
  }
  EXPECT_EQ(held.most_bytes(), blk::kMaxDiscardSectors * 512ull);
  // Those that wait are in their ring after a stop.
  for (int i = 0; i < 3; ++i) {
    rig.queue().add({BlockRig::header(kTypeDiscard), readable(data), writable(1)});
  }
  rig.queue().kick();
  ASSERT_TRUE(held.wait_held(1));
  const auto before = rig.queue().used_index();
  (void)rig.device().deactivate();
  EXPECT_EQ(rig.queue().used_index(), before + 1);
}

TEST(BlockDevice, DeactivatesWhileThrottled) {
  DiskConfig config;
  config.limits.bytes_per_second = 1024;
  BlockRig rig(config);
  rig.activate();
  auto& driver = rig.queue();
  for (int i = 0; i < 4; ++i) driver.add({BlockRig::header(kTypeIn), writable(65536), writable(1)});
  driver.kick();
  ASSERT_TRUE(driver.wait_used());
  const auto queues = rig.device().deactivate();
  EXPECT_EQ(queues[0]->in_flight(), 0u);
  EXPECT_EQ(queues[0]->next_avail(), 1) << "the others wait in the ring";
}

TEST(BlockDevice, RefusesBadConfigurations) {
  const TemporaryDirectory directory;
  const auto path = directory.file("disk", kSize);
  const auto message = [&](DiskConfig config) {
    config.path = path;
    const auto device = BlockDevice::create(config, "blk0");
    return device ? std::string("no error") : device.error().message();
  };
  EXPECT_NE(message({.serial = std::string(21, 's')}).find("longer than 20 bytes"),
            std::string::npos);
  EXPECT_NE(message({.queues = 0}).find("invalid queues 0: expected 1 to 64"), std::string::npos);
  EXPECT_NE(message({.queues = 65}).find("invalid queues 65"), std::string::npos);
  EXPECT_NE(message({.queue_size = 100}).find("invalid queue size 100"), std::string::npos);
  EXPECT_NE(message({.queue_size = 2}).find("from 4 to 1024"), std::string::npos);
  EXPECT_EQ(message({}), "no error");
}

class PollWindowTest : public ::testing::Test {
 protected:
  void kick_after(std::chrono::microseconds gap) {
    window_.idle(now_);
    now_ += gap;
    window_.busy(now_);
  }
  PollWindow window_;
  PollWindow::Clock::time_point now_ = PollWindow::Clock::time_point{} + std::chrono::seconds(1);
};

TEST_F(PollWindowTest, OpensForQuickGuestsAndClosesForSlowOnes) {
  using std::chrono::microseconds;
  EXPECT_EQ(window_.length().count(), 0);
  for (int i = 0; i < 10; ++i) kick_after(microseconds(20));
  EXPECT_GE(window_.length(), microseconds(20));
  EXPECT_LE(window_.length(), PollWindow::kLongest);
  kick_after(microseconds(1000));
  EXPECT_EQ(window_.length().count(), 0);
}

TEST_F(PollWindowTest, ClosesWhereLookingIsInVain) {
  using std::chrono::microseconds;
  const auto look_in_vain = [this] {
    for (int i = 0; i < PollWindow::kMisses; ++i) {
      kick_after(microseconds(20));
      window_.missed(now_);
    }
  };
  look_in_vain();
  const auto closed = now_;
  while (now_ < closed + PollWindow::kFirstPause) {
    EXPECT_EQ(window_.length().count(), 0);
    kick_after(microseconds(20));
  }
  EXPECT_GT(window_.length().count(), 0) << "tries again";
  look_in_vain();
  kick_after(PollWindow::kFirstPause);
  kick_after(microseconds(20));
  EXPECT_EQ(window_.length().count(), 0) << "closed for longer the second time";
}

class InterruptModerationTest : public ::testing::Test {
 protected:
  // A driver that has `depth` requests in flight at most and sends one every `gap`. How many of
  // `count` requests' interrupts it gets, and how long it stood still in all.
  struct Seen {
    int interrupts = 0;
    InterruptModeration::Clock::duration idle{};
  };
  Seen drive(std::uint32_t depth, InterruptModeration::Clock::duration gap, int count) {
    Seen seen;
    std::uint32_t done = 0;
    const auto tell = [&] {
      moderation_.told(done);
      done = 0;
      ++seen.interrupts;
    };
    for (int i = 0; i < count; ++i) {
      now_ += gap;
      // Two at once now and then, as where the driver may not be interrupted.
      const std::uint32_t together = depth > 1 && i % 16 == 0 ? 2 : 1;
      moderation_.arrived(together, now_);
      done = std::min(done + together, depth);
      if (!moderation_.may_wait(done, now_)) {
        tell();
      } else if (done == depth) {
        const auto stopped = now_;
        while (moderation_.may_wait(done, now_)) now_ = moderation_.next_look(done, now_);
        seen.idle += now_ - stopped;
        tell();
      }
    }
    return seen;
  }
  InterruptModeration moderation_;
  InterruptModeration::Clock::time_point now_ =
      InterruptModeration::Clock::time_point{} + std::chrono::seconds(1);
};

TEST_F(InterruptModerationTest, GathersWhereManyRequestsAreInFlight) {
  drive(32, std::chrono::microseconds(20), 200);
  const auto seen = drive(32, std::chrono::microseconds(20), 1600);
  EXPECT_EQ(seen.idle.count(), 0);
  EXPECT_LE(seen.interrupts, 2 * 1600 / static_cast<int>(InterruptModeration::kMost));
}

TEST_F(InterruptModerationTest, NeverWaitsForADriverOfOneRequest) {
  const auto seen = drive(1, std::chrono::microseconds(20), 1000);
  EXPECT_EQ(seen.interrupts, 1000);
  EXPECT_EQ(seen.idle.count(), 0);
}

TEST_F(InterruptModerationTest, WaitsInVainRarely) {
  using std::chrono::microseconds;
  for (const std::uint32_t depth : {2u, 3u, 5u, 12u}) {
    moderation_ = {};
    const auto seen = drive(depth, microseconds(20), 20'000);
    EXPECT_LT(seen.idle, microseconds(20) * 20'000 / 50) << "at depth " << depth;
  }
}

TEST_F(InterruptModerationTest, FallsBackWhenTheDriverSendsOneAtATime) {
  using std::chrono::microseconds;
  drive(32, microseconds(20), 200);
  const auto seen = drive(1, microseconds(20), 1000);
  EXPECT_EQ(seen.interrupts, 1000);
  EXPECT_LE(seen.idle, 100 * microseconds(20));
}

// The driver's processor is taken away now and then.
TEST_F(InterruptModerationTest, OneLateRequestDoesNotEndIt) {
  using std::chrono::microseconds;
  int interrupts = 0;
  for (int i = 0; i < 100; ++i) {
    interrupts += drive(32, microseconds(20), 100).interrupts;
    moderation_.told(1);
  }
  EXPECT_LE(interrupts, 100 * 100 / 4);
}

TEST_F(InterruptModerationTest, WaitsNoLongerThanABusyDriversPace) {
  drive(32, std::chrono::microseconds(20), 200);
  now_ += std::chrono::seconds(1);
  moderation_.arrived(1, now_);
  EXPECT_TRUE(moderation_.may_wait(1, now_));
  const auto patience = InterruptModeration::kPatience * std::chrono::microseconds(20);
  EXPECT_FALSE(moderation_.may_wait(1, now_ + patience));
  EXPECT_LE(moderation_.next_look(1, now_), now_ + 2 * patience);
}

// Which requests of a queue the driver was told of.
class ToldInterrupts : public TestInterrupts {
 public:
  explicit ToldInterrupts(const DriverQueue& driver) : driver_(driver) {}
  void queue_used(std::uint16_t) override { told_ = driver_.used_index(); }
  bool wait_told(std::uint16_t index) const {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (told_ != index && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    return told_ == index;
  }

 private:
  const DriverQueue& driver_;
  std::atomic<std::uint16_t> told_ = 0;
};

TEST(BlockDevice, TellsOfWhatWaitedForMore) {
  BlockRig rig({}, test::kInMemory);
  auto& driver = rig.queue();
  ToldInterrupts interrupts(driver);
  // Without EVENT_IDX each notification is an interrupt.
  const auto features = rig.device().features() & ~kFeatureEventIdx;
  ASSERT_TRUE(rig.device().activate(
      test::activation_of(rig.ram().memory(), features, {&driver}, interrupts)));
  std::uint16_t sent = 0;
  for (int round = 0; round < 40; ++round) {
    const int together = round % 4 == 0 ? 1 : 8;
    for (int i = 0; i < together; ++i, ++sent) {
      driver.add_indirect({BlockRig::header(kTypeIn), writable(512), writable(1)});
    }
    driver.kick();
    ASSERT_TRUE(interrupts.wait_told(sent)) << "of " << together << " in round " << round;
  }
  (void)rig.device().deactivate();
}

class BlockHarness : public DeviceHarness {
 public:
  explicit BlockHarness(std::uint16_t queues) {
    const auto path = directory_.file("disk", 1u << 20);
    device_ = std::move(BlockDevice::create({.path = path, .queues = queues}, "blk0").value());
  }
  Device& device() override { return *device_; }

 private:
  TemporaryDirectory directory_{test::kInMemory};
  std::unique_ptr<BlockDevice> device_;
};

INSTANTIATE_TEST_SUITE_P(
    Block, DeviceSuite,
    ::testing::Values(DeviceKind{"block", [] { return std::make_unique<BlockHarness>(1); }},
                      DeviceKind{"block_multiqueue",
                                 [] { return std::make_unique<BlockHarness>(2); }}),
    DeviceKind::test_name);

}  // namespace
}  // namespace vmm::virtio
