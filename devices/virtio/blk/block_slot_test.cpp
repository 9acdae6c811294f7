// Slots: disks that come and go under a driver that goes on.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "devices/virtio/blk/block_device.h"
#include "devices/virtio/blk/block_driver_for_test.h"
#include "src/disk/copied_disk.h"
#include "src/disk/qcow2/create.h"
#include "src/disk/temporary_file.h"

namespace vmm::virtio {
namespace {

using namespace blk;
using disk::DiskConfig;
using test::readable;
using test::TemporaryDirectory;
using test::writable;

constexpr std::size_t kSize = 4u << 20;
constexpr std::uint64_t kSectors = kSize / 512;
constexpr std::uint64_t kSlotSize = 1u << 30;

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

// An empty slot with its driver.
class SlotTest : public ::testing::Test {
 protected:
  explicit SlotTest(std::uint16_t queues = 2) : driver_(16u << 20, queues, 1024) {
    slot_.queues = queues;
    device_ = std::move(BlockDevice::create(slot_, "blk1").value());
    driver_.activate(*device_, device_->features());
  }
  ~SlotTest() override { (void)device_->deactivate(); }

  DiskConfig with(const std::string& path) const {
    DiskConfig given;
    given.path = path;
    return disk::fill_slot(slot_, given).value();
  }
  std::string image(const std::string& name, char content, std::size_t size = kSize) {
    const auto path = directory_.file(name, size);
    std::ofstream(path) << std::string(size, content);
    return path;
  }
  // As the transport does it, while the guest goes on.
  Result<void> make(Result<std::unique_ptr<SlotChange>> change) {
    if (!change) return std::unexpected(change.error());
    auto queues = device_->suspend();
    const auto made = (*change)->make();
    driver_.resume(*device_, std::move(queues));
    return made;
  }
  Result<void> put(const std::string& path) { return make(device_->prepare(with(path))); }
  Result<void> detach() { return make(device_->prepare(slot_)); }

  std::uint64_t capacity() const {
    std::uint64_t sectors = 0;
    device_->read_config(0, std::as_writable_bytes(std::span(&sectors, 1)));
    return sectors;
  }
  std::uint16_t ask_to_read(std::size_t queue = 0) {
    return driver_.ask({BlockDriver::header(kTypeIn), writable(512), writable(1)}, queue);
  }
  // "x" of what is read, "!" for an error.
  char answer(std::size_t queue = 0) {
    auto& ring = driver_.ring(queue);
    const auto used = ring.wait_used();
    if (!used) return '?';
    const auto status = static_cast<Status>(ring.text(used->head, 2)[0]);
    return status == Status::ok ? ring.text(used->head, 1)[0] : '!';
  }
  char read(std::size_t queue = 0) {
    ask_to_read(queue);
    return answer(queue);
  }

  TemporaryDirectory directory_{test::kInMemory};
  DiskConfig slot_{.slot_size = kSlotSize};
  BlockDriver driver_;
  std::unique_ptr<BlockDevice> device_;
};

TEST_F(SlotTest, AnEmptyOneAnswersErrors) {
  EXPECT_EQ(capacity(), 0u);
  EXPECT_EQ(read(), '!');
  EXPECT_EQ(read(1), '!');
  driver_.ask({BlockDriver::header(kTypeFlush), readable(""), writable(1)});
  EXPECT_EQ(answer(), '!');
  EXPECT_EQ(device_->copied_disk(), nullptr) << "a snapshot has nothing of it";
}

TEST_F(SlotTest, IsFilledReplacedAndEmptied) {
  const auto features = device_->features();
  ASSERT_TRUE(put(image("one", '1')));
  EXPECT_TRUE(driver_.interrupts().wait_config_changed(1));
  EXPECT_EQ(capacity(), kSectors);
  EXPECT_EQ(read(), '1');
  EXPECT_EQ(read(1), '1');
  EXPECT_NE(device_->copied_disk(), nullptr);
  ASSERT_TRUE(put(image("two", '2', kSize / 2)));
  EXPECT_TRUE(driver_.interrupts().wait_config_changed(2));
  EXPECT_EQ(capacity(), kSectors / 2);
  EXPECT_EQ(read(1), '2');
  ASSERT_TRUE(detach());
  EXPECT_TRUE(driver_.interrupts().wait_config_changed(3));
  EXPECT_EQ(capacity(), 0u);
  EXPECT_EQ(read(), '!');
  EXPECT_EQ(device_->features(), features) << "its driver asked once";
}

TEST_F(SlotTest, RefusesWhatDoesNotFitAndStaysAsItWas) {
  const auto path = image("one", '1');
  ASSERT_TRUE(put(path));
  const auto why_not = [this](DiskConfig config) {
    const auto change = device_->prepare(config);
    return change ? "" : change.error().message();
  };
  const auto large = directory_.file("large", 0);
  std::filesystem::resize_file(large, kSlotSize + 512);
  EXPECT_EQ(
      why_not(with(large)),
      fmt::format("disk '{}' has 1073742336 bytes: the slot takes at most 1073741824", large));
  EXPECT_NE(why_not(with(directory_.path() + "/none")).find("does not exist"), std::string::npos)
      << why_not(with(directory_.path() + "/none"));
  EXPECT_NE(why_not(with(directory_.path())).find("is a directory"), std::string::npos);
  const auto fifo = directory_.path() + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_NE(why_not(with(fifo)), "") << "nor does it wait for somebody to write";
  EXPECT_NE(why_not(with(path)), "") << "another machine, or this one, writes to it";
  EXPECT_EQ(read(), '1');
}

TEST_F(SlotTest, GrowsWithItsDisk) {
  ASSERT_TRUE(put(image("one", '1')));
  const auto why_not = [this](std::uint64_t size) {
    const auto change = device_->prepare_resize(with(directory_.path() + "/one"), size);
    return change ? "" : change.error().message();
  };
  EXPECT_NE(why_not(kSize / 2).find("it only grows"), std::string::npos);
  EXPECT_NE(why_not(kSlotSize + 512).find("up to the slot's"), std::string::npos);
  EXPECT_NE(why_not(kSize + 1).find("a multiple of 512"), std::string::npos);
  ASSERT_TRUE(make(device_->prepare_resize(with(directory_.path() + "/one"), 2 * kSize)));
  EXPECT_TRUE(driver_.interrupts().wait_config_changed(2));
  EXPECT_EQ(capacity(), 2 * kSectors);
  EXPECT_EQ(read(), '1');
  EXPECT_EQ(std::filesystem::file_size(directory_.path() + "/one"), 2 * kSize);
}

// A file is the guest's, not its name.
TEST_F(SlotTest, GrowsWhateverItsFileIsCalled) {
  const auto path = image("one", '1');
  ASSERT_TRUE(put(path));
  const auto grow = [&](std::uint64_t size) {
    return make(device_->prepare_resize(with(path), size));
  };
  std::filesystem::rename(path, path + "-moved");
  ASSERT_TRUE(grow(2 * kSize)) << "though nothing has its name";
  image("one", 'o');
  ASSERT_TRUE(grow(3 * kSize)) << "though another file has it";
  EXPECT_EQ(capacity(), 3 * kSectors);
  EXPECT_EQ(std::filesystem::file_size(path), kSize) << "which is nobody's to resize";
  EXPECT_EQ(std::filesystem::file_size(path + "-moved"), 3 * kSize);
  EXPECT_EQ(read(), '1');
  // What cannot be done leaves it as it was.
  std::filesystem::resize_file(path + "-moved", 5 * kSize);
  EXPECT_FALSE(grow(4 * kSize)) << "somebody else resizes it";
  EXPECT_EQ(std::filesystem::file_size(path + "-moved"), 5 * kSize);
  EXPECT_EQ(capacity(), 3 * kSectors);
  EXPECT_EQ(read(), '1');
}

TEST_F(SlotTest, AnImageGrowsAndTheBaseOfAScratchDiskDoesNot) {
  const auto base = image("base", 'b');
  const auto layer = directory_.path() + "/layer";
  ASSERT_TRUE(disk::qcow2::create_image({.path = layer,
                                         .size = kSize,
                                         .backing_path = base,
                                         .backing_format = disk::ImageFormat::raw}));
  auto scratch = with(base);
  scratch.scratch = true;
  for (const auto& config : {with(layer), scratch}) {
    ASSERT_TRUE(make(device_->prepare(config)));
    ASSERT_NE(device_->copied_disk(), nullptr);
    ASSERT_TRUE(make(device_->prepare_resize(config, kSlotSize)));
    EXPECT_EQ(capacity(), kSlotSize / 512);
    EXPECT_EQ(read(), 'b');
    EXPECT_NE(device_->copied_disk(), nullptr) << "the next snapshot has it";
    EXPECT_FALSE(device_->copied_disk()->is_recording()) << "all of it";
  }
  EXPECT_EQ(std::filesystem::file_size(base), kSize);
}

// What was asked before is answered by the disk of that time, or by the next one: never lost.
TEST_F(SlotTest, IsChangedUnderLoad) {
  const auto one = image("one", '1'), two = image("two", '2');
  for (int round = 0; round < 100; ++round) {
    ask_to_read(0);
    ask_to_read(1);
    ASSERT_TRUE(round % 3 == 2 ? detach() : put(round % 3 == 0 ? one : two));
    for (const std::size_t queue : {0u, 1u}) {
      const char answered = answer(queue);
      EXPECT_TRUE(answered == '1' || answered == '2' || answered == '!') << answered;
    }
  }
}

class LongLivedSlotTest : public SlotTest {
 protected:
  LongLivedSlotTest() : SlotTest(1) {}
};
TEST_F(LongLivedSlotTest, ThousandsOfChangesLeaveNothingBehind) {
  const auto path = image("one", '1');
  const auto before = open_descriptors();
  for (int round = 0; round < 5'000; ++round) {
    ASSERT_TRUE(put(path)) << round;
    ASSERT_TRUE(detach()) << round;
  }
  EXPECT_EQ(open_descriptors(), before);
  ASSERT_TRUE(put(path));
  EXPECT_EQ(read(), '1');
}

// Its driver is told of what another disk changed when the guest goes on, not before.
TEST_F(SlotTest, IsRestoredWithAnotherDisk) {
  const auto restored = [this](const std::string& path, const state::Sections& saved) {
    auto device = std::move(BlockDevice::create(with(path), "blk1").value());
    auto sections = state::Sections::from_bytes(saved.to_bytes().value()).value();
    EXPECT_TRUE(device->restore(sections, "blk1"));
    return device;
  };
  auto queues = device_->suspend();
  state::Sections empty;
  device_->save(empty, "blk1");
  device_ = restored(image("one", '1'), empty);
  driver_.resume(*device_, std::move(queues));
  EXPECT_TRUE(driver_.interrupts().wait_config_changed(1));
  EXPECT_EQ(read(), '1');
  // The next copy has it in its state, and another of the same size is no news.
  queues = device_->suspend();
  state::Sections filled;
  device_->save(filled, "blk1");
  device_ = restored(image("two", '2'), filled);
  driver_.resume(*device_, std::move(queues));
  EXPECT_EQ(read(), '2');
  EXPECT_EQ(driver_.interrupts().config_changes(), 1u);
}

class ReadOnlySlotTest : public SlotTest {
 protected:
  ReadOnlySlotTest() : SlotTest(1) {
    slot_.read_only = true;
    (void)device_->deactivate();
    device_ = std::move(BlockDevice::create(slot_, "blk1").value());
  }
};
TEST_F(ReadOnlySlotTest, OpensItsDiskForReading) {
  const auto path = image("one", '1');
  ASSERT_EQ(::chmod(path.c_str(), 0400), 0);
  const auto reader = device_->prepare(with(path)), other = device_->prepare(with(path));
  ASSERT_TRUE(reader && other) << "with other readers";
  EXPECT_NE(device_->features() & kFeatureReadOnly, 0u);
  EXPECT_FALSE(device_->prepare_resize(with(path), 2 * kSize));
}

class EmptyHarness : public DeviceHarness {
 public:
  Device& device() override { return *device_; }

 private:
  std::unique_ptr<BlockDevice> device_ =
      std::move(BlockDevice::create({.slot_size = kSlotSize, .queues = 2}, "blk1").value());
};

INSTANTIATE_TEST_SUITE_P(EmptySlot, DeviceSuite,
                         ::testing::Values(DeviceKind{
                             "empty", [] { return std::make_unique<EmptyHarness>(); }}),
                         DeviceKind::test_name);

}  // namespace
}  // namespace vmm::virtio
