#include "devices/virtio/pmem/pmem_device.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "devices/virtio/device_suite_test.h"
#include "devices/virtio/pmem/state.h"
#include "src/base/worker.h"
#include "src/disk/temporary_file.h"

namespace vmm::virtio {
namespace {

using test::readable_struct;
using test::TemporaryDirectory;
using test::writable;

constexpr std::uint32_t kFlush = 0;

void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

class PmemHarness : public DeviceHarness {
 public:
  PmemHarness() : PmemHarness({.slot_size = 2u << 20}) {}
  explicit PmemHarness(const PmemConfig& config)
      : device_(std::move(
            PmemDevice::create(config, "pmem0", ram().memory(), worker_->loop()).value())) {}
  ~PmemHarness() override { device_.reset(); }
  Device& device() override { return *device_; }
  PmemDevice& pmem() { return *device_; }
  struct Place {
    std::uint64_t start, size;
  };
  Place place() {
    Place place;
    device_->read_config(0, std::as_writable_bytes(std::span(&place, 1)));
    return place;
  }
  // As the guest finds it.
  std::string text(std::uint64_t offset, std::size_t size) {
    const auto* host = ram().memory().source_pointer({place().start + offset}, size);
    return host == nullptr ? "outside" : std::string(reinterpret_cast<const char*>(host), size);
  }

 private:
  std::unique_ptr<Worker> worker_ = std::move(Worker::start("pmem").value());
  std::unique_ptr<PmemDevice> device_;
};

class PmemTest : public ::testing::Test {
 protected:
  std::string why_not(const PmemConfig& config) {
    test::GuestRam ram;
    const auto worker = std::move(Worker::start("pmem").value());
    const auto device = PmemDevice::create(config, "pmem0", ram.memory(), worker->loop());
    return device ? "no error" : device.error().message();
  }
  std::string file(const std::string& name, const std::string& content) {
    const auto path = directory_.path() + "/" + name;
    write_file(path, content);
    return path;
  }
  // Two files, whole pages of each.
  std::string list() {
    file("one", std::string(8192, '1'));
    file("two", std::string(4096 + 512, '2'));
    return file("list.vmdk",
                "# Disk DescriptorFile\nversion=1\ncreateType=\"twoGbMaxExtentFlat\"\n"
                "RW 8 FLAT \"one\" 8\nRW 8 FLAT \"two\" 0\n");
  }
  TemporaryDirectory directory_;
};

TEST_F(PmemTest, HasTheFilesBytesAndZeroesBehind) {
  PmemHarness harness({.path = file("f", "hello")});
  EXPECT_EQ(harness.place().start % GuestMemory::kWindowAlignment, 0u);
  EXPECT_GE(harness.place().start, std::uint64_t{4} << 30);
  EXPECT_EQ(harness.place().size, kPmemAlignment);
  EXPECT_EQ(harness.text(0, 6), std::string("hello\0", 6));
  EXPECT_EQ(harness.text(kPmemAlignment - 1, 1), std::string(1, '\0'));
  EXPECT_EQ(harness.text(kPmemAlignment, 1), "outside");
}

TEST_F(PmemTest, PutsTheFilesOfAListOneBehindTheOther) {
  PmemHarness harness({.path = list(), .format = disk::ImageFormat::vmdk});
  EXPECT_EQ(harness.text(0, 8192), std::string(4096, '1') + std::string(4096, '2'));
  EXPECT_EQ(harness.text(8192, 3), std::string(3, '\0')) << "no bytes beyond an extent";
}

TEST_F(PmemTest, ASecondOneIsAboveTheFirst) {
  test::GuestRam ram;
  const auto worker = std::move(Worker::start("pmem").value());
  const PmemConfig config{.slot_size = 4u << 20};
  const auto one = PmemDevice::create(config, "pmem0", ram.memory(), worker->loop());
  const auto two = PmemDevice::create(config, "pmem1", ram.memory(), worker->loop());
  ASSERT_TRUE(one && two);
  const auto windows = ram.memory().windows();
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[1].range.base.value,
            windows[0].range.base.value + GuestMemory::kWindowAlignment);
}

TEST_F(PmemTest, RefusesWhatItCannotMap) {
  EXPECT_NE(why_not({.path = file("empty", "")}).find("is empty"), std::string::npos);
  EXPECT_NE(why_not({.path = directory_.path() + "/none"}).find("does not exist"),
            std::string::npos);
  const auto large = file("large", std::string((2u << 20) + 1, 'x'));
  EXPECT_EQ(why_not({.path = large, .slot_size = 2u << 20}),
            "pmem '" + large + "' has 2097153 bytes: expected at most 2097152");
  std::string qcow2("QFI\xfb\0\0\0\3", 8);
  qcow2.resize(512);
  EXPECT_NE(why_not({.path = file("q", qcow2)}).find("it is a qcow2 image"), std::string::npos);
  file("one", std::string(8192, '1'));
  const auto odd = file("odd.vmdk",
                        "# Disk DescriptorFile\nversion=1\ncreateType=\"twoGbMaxExtentFlat\"\n"
                        "RW 9 FLAT \"one\" 0\nRW 1 FLAT \"one\" 0\n");
  EXPECT_EQ(why_not({.path = odd, .format = disk::ImageFormat::vmdk}),
            "pmem '" + odd + "': 4608 bytes of '" + directory_.path() +
                "/one' are no whole pages of 4096");
}

TEST_F(PmemTest, SaysWhatItIs) {
  EXPECT_EQ(parse_pmem_config("a.img,size=2M")->slot_size, 2u << 20);
  EXPECT_EQ(parse_pmem_config("size=2M")->path, "");
  for (const auto* words : {"size=3M0", "size=1M", "size=128G", "size=0"}) {
    EXPECT_FALSE(parse_pmem_config(words)) << words;
  }
  EXPECT_EQ(parse_pmem_config("").error().message(),
            "a path is missing: --pmem PATH, or size=SIZE for a slot");
}

class ActivePmem : public PmemTest {
 protected:
  void SetUp() override {
    ASSERT_TRUE(harness_.device().activate(test::activation_of(
        harness_.ram().memory(), harness_.device().features(), {&driver_}, interrupts_)));
  }
  void TearDown() override { (void)harness_.device().deactivate(); }
  std::uint32_t answer_to(std::uint32_t request) {
    const auto head = driver_.add({readable_struct(request), writable(4)});
    driver_.kick();
    const auto used = driver_.wait_used();
    EXPECT_TRUE(used && used->written == 4);
    std::uint32_t answer = 1;
    std::memcpy(&answer, driver_.text(head, 1).data(), sizeof answer);
    return answer;
  }
  PmemHarness harness_;
  test::DriverQueue driver_{harness_.ram(), 64};
  test::TestInterrupts interrupts_;
};

TEST_F(ActivePmem, AnswersFlushesAndNothingElse) {
  EXPECT_EQ(answer_to(kFlush), 0u);
  EXPECT_EQ(answer_to(1), ~std::uint32_t{0});
  EXPECT_EQ(harness_.device().metrics().front().name, "requests");
}

TEST_F(ActivePmem, TakesRequestsWithoutRoom) {
  driver_.add({readable_struct(kFlush)});
  driver_.add({writable(4)});
  driver_.kick();
  EXPECT_EQ(driver_.wait_used()->written, 0u);
  EXPECT_EQ(driver_.wait_used()->written, 4u);
}

TEST_F(ActivePmem, ServesMoreThanOneTurn) {
  constexpr std::size_t kRequests = 3 * PmemDevice::kMaxTurn;
  for (std::size_t i = 0; i < kRequests; ++i) driver_.add({writable(4)});
  driver_.kick();
  for (std::size_t i = 0; i < kRequests; ++i) ASSERT_TRUE(driver_.wait_used()) << i;
}

class RestoredPmem : public PmemTest {
 protected:
  state::Sections saved(const PmemConfig& config) {
    PmemHarness harness(config);
    state::Sections sections;
    harness.device().save(sections, "pmem0");
    return sections;
  }
  std::string restored(state::Sections sections, const PmemConfig& config) {
    PmemHarness harness(config);
    const auto result = harness.device().restore(sections, "pmem0");
    return result ? "" : result.error().message();
  }
};

TEST_F(RestoredPmem, TakesTheSameFileByWhateverName) {
  const auto path = file("f", "hello");
  auto sections = saved({.path = path});
  std::filesystem::rename(path, path + "2");
  EXPECT_EQ(restored(std::move(sections), {.path = path + "2"}), "");
}

TEST_F(RestoredPmem, RefusesAFileThatChanged) {
  const auto path = file("f", "hello");
  auto sections = saved({.path = path});
  std::filesystem::last_write_time(
      path, std::filesystem::last_write_time(path) + std::chrono::seconds(1));
  EXPECT_EQ(restored(std::move(sections), {.path = path}),
            "'" + path + "' is not what the guest has read, or was changed since");
}

TEST_F(RestoredPmem, ASlotHasWhatItIsFilledWith) {
  const std::uint64_t size = 2u << 20;
  const auto path = file("f", "hello");
  const auto other = file("g", "other");
  EXPECT_EQ(restored(saved({.slot_size = size}), {.path = path, .slot_size = size}), "");
  EXPECT_EQ(restored(saved({.path = path, .slot_size = size}), {.path = other, .slot_size = size}),
            "");
  EXPECT_EQ(restored(saved({.slot_size = size}), {.slot_size = 2 * size}),
            "it has 2097152 bytes, '' makes it 4194304");
}

INSTANTIATE_TEST_SUITE_P(Pmem, DeviceSuite,
                         ::testing::Values(DeviceKind{
                             "pmem", [] { return std::make_unique<PmemHarness>(); }}),
                         DeviceKind::test_name);

}  // namespace
}  // namespace vmm::virtio
