#include "devices/virtio/balloon/balloon_device.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <future>

#include "devices/virtio/device_suite_test.h"
#include "src/base/worker.h"

namespace vmm::virtio {
namespace {

using test::DriverQueue;
using test::GuestRam;
using test::readable;
using test::TestInterrupts;
using test::writable;

class BalloonHarness : public DeviceHarness {
 public:
  Device& device() override { return *balloon_; }
  QueueHandling handling(std::size_t queue) const override {
    switch (queue) {
      case 2:  // keeps the buffer until the guest is asked
        return QueueHandling::takes;
      case 3:  // page hinting, which is not offered
        return QueueHandling::ignores;
      default:
        return QueueHandling::answers;
    }
  }
  BalloonDevice& balloon() { return *balloon_; }

 private:
  std::unique_ptr<Worker> worker_ = std::move(Worker::start("balloon").value());
  std::unique_ptr<BalloonDevice> balloon_ =
      std::make_unique<BalloonDevice>(ram().memory(), worker_->loop());
};

struct [[gnu::packed]] Entry {
  std::uint16_t tag;
  std::uint64_t value;
};

class BalloonTest : public ::testing::Test {
 protected:
  void activate(std::uint64_t features, std::vector<DriverQueue*> queues) {
    ASSERT_TRUE(
        balloon().activate(test::activation_of(ram().memory(), features, queues, interrupts_)));
  }
  void activate() {
    activate(balloon().features(), {&inflate_, &deflate_, &statistics_, nullptr, &reporting_});
  }
  void TearDown() override { (void)balloon().deactivate(); }

  BalloonDevice& balloon() { return harness_.balloon(); }
  GuestRam& ram() { return harness_.ram(); }

  // Pages with something in them.
  GuestAddress touched(std::size_t pages) {
    const auto address = ram().allocate(pages * 4096);
    std::memset(ram().host(address, pages * 4096), 'x', pages * 4096);
    return address;
  }
  bool is_zero(GuestAddress address, std::size_t size) {
    return ram().text(address, size) == std::string(size, '\0');
  }
  static std::string page_list(const std::vector<std::uint32_t>& pages) {
    return std::string(reinterpret_cast<const char*>(pages.data()), pages.size() * 4);
  }
  static std::string entries(const std::vector<Entry>& list) {
    return std::string(reinterpret_cast<const char*>(list.data()), list.size() * sizeof(Entry));
  }
  static bool answers(DriverQueue& queue) {
    queue.kick();
    return queue.wait_used().has_value();
  }
  std::future<Result<BalloonStatistics>> ask() {
    auto promise = std::make_shared<std::promise<Result<BalloonStatistics>>>();
    balloon().request_statistics([promise](auto answer) { promise->set_value(std::move(answer)); });
    return promise->get_future();
  }

  BalloonHarness harness_;
  DriverQueue inflate_{ram(), 64}, deflate_{ram(), 64}, statistics_{ram(), 16},
      reporting_{ram(), 64};
  TestInterrupts interrupts_;
};

TEST_F(BalloonTest, TargetReachesTheDriver) {
  activate();
  ASSERT_TRUE(balloon().set_target(3u << 20));
  EXPECT_TRUE(interrupts_.wait_config_changed());
  std::uint32_t pages = 0;
  balloon().read_config(0, std::as_writable_bytes(std::span(&pages, 1)));
  EXPECT_EQ(pages, 768u);
  const std::uint32_t actual = 700;
  balloon().write_config(4, std::as_bytes(std::span(&actual, 1)));
  EXPECT_EQ(balloon().amounts().target_bytes, 3u << 20);
  EXPECT_EQ(balloon().amounts().actual_bytes, 700u * 4096u);
  const std::uint32_t ignored = 1;
  balloon().write_config(0, std::as_bytes(std::span(&ignored, 1)));
  EXPECT_EQ(balloon().amounts().target_bytes, 3u << 20) << "the driver does not set the target";
  EXPECT_EQ(balloon().amounts().actual_bytes, 700u * 4096u);
}

TEST_F(BalloonTest, RefusesMoreThanThereIs) {
  const auto result = balloon().set_target((16u << 20) + 4096);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message().find("in a machine with 16M of memory"), std::string::npos);
}

TEST_F(BalloonTest, InflationGivesPagesBack) {
  activate();
  const auto block = touched(8);
  const auto first = static_cast<std::uint32_t>(block.value / 4096);
  // Out of order, twice, and with a gap.
  inflate_.add({readable(page_list({first + 5, first, first + 1, first + 1, first + 2})),
                readable(page_list({first + 6}))});
  ASSERT_TRUE(answers(inflate_));
  EXPECT_TRUE(is_zero(block, 3 * 4096));
  EXPECT_FALSE(is_zero(block + 3 * 4096, 4096));
  EXPECT_FALSE(is_zero(block + 4 * 4096, 4096));
  EXPECT_TRUE(is_zero(block + 5 * 4096, 2 * 4096));
  EXPECT_FALSE(is_zero(block + 7 * 4096, 4096));
  EXPECT_EQ(balloon().amounts().inflated_bytes, 5u * 4096u);
  deflate_.add({readable(page_list({first, first + 1}))});
  EXPECT_TRUE(answers(deflate_));
}

TEST_F(BalloonTest, InflationLeavesTheHostsMemory) {
  activate();
  const auto block = touched(16);
  const auto first = static_cast<std::uint32_t>(block.value / 4096);
  std::vector<std::uint32_t> pages;
  for (std::uint32_t i = 0; i < 16; ++i) pages.push_back(first + i);
  inflate_.add({readable(page_list(pages))});
  ASSERT_TRUE(answers(inflate_));
  std::vector<unsigned char> resident(16);
  ASSERT_EQ(::mincore(ram().host(block, 16 * 4096), 16 * 4096, resident.data()), 0);
  for (const auto page : resident) EXPECT_EQ(page & 1, 0);
}

TEST_F(BalloonTest, PagesOutsideOfMemoryAreIgnored) {
  activate();
  inflate_.add({readable(page_list({4095, 4096, 4097, 0xffff'ffff, 0xffff'fffe}))});
  ASSERT_TRUE(answers(inflate_));
  EXPECT_EQ(balloon().amounts().inflated_bytes, 4096u);
  EXPECT_FALSE(interrupts_.is_reset_needed());
}

TEST_F(BalloonTest, TooManyPagesNeedReset) {
  activate();
  std::vector<test::BufferSpec> buffers;
  for (int i = 0; i < 3; ++i) buffers.push_back(readable(std::string(128u << 10, '\0')));
  inflate_.add(buffers);
  inflate_.kick();
  EXPECT_TRUE(interrupts_.wait_needs_reset());
}

TEST_F(BalloonTest, ReportedRangesAreGivenBack) {
  activate();
  const auto a = touched(4), b = touched(2);
  reporting_.set_descriptor(0, {a.value, 4 * 4096, test::kDescWrite | test::kDescNext, 1});
  reporting_.set_descriptor(1, {b.value, 4096, test::kDescWrite, 0});
  reporting_.offer(0);
  ASSERT_TRUE(answers(reporting_));
  EXPECT_TRUE(is_zero(a, 4 * 4096));
  EXPECT_TRUE(is_zero(b, 4096));
  EXPECT_FALSE(is_zero(b + 4096, 4096));
  EXPECT_EQ(balloon().amounts().reported_bytes, 5u * 4096u);
}

// Where Linux puts the queue, with statistics and without.
TEST_F(BalloonTest, FindsTheReportingQueueInEitherNumbering) {
  const auto expect_reported = [this](std::uint64_t features, std::vector<DriverQueue*> queues,
                                      DriverQueue& reporting) {
    activate(features, std::move(queues));
    const auto block = touched(1);
    reporting.set_descriptor(0, {block.value, 4096, test::kDescWrite, 0});
    reporting.offer(0);
    EXPECT_TRUE(answers(reporting));
    EXPECT_TRUE(is_zero(block, 4096));
    (void)balloon().deactivate();
  };
  const auto features = balloon().features();
  DriverQueue three(ram(), 64), two(ram(), 64);
  expect_reported(features, {&inflate_, &deflate_, &statistics_, &three, nullptr}, three);
  expect_reported(features & ~BalloonDevice::kFeatureStatistics,
                  {&inflate_, &deflate_, &two, nullptr, nullptr}, two);
}

TEST_F(BalloonTest, WithoutTheFeatureNothingIsReported) {
  activate(balloon().features() & ~BalloonDevice::kFeatureReporting,
           {&inflate_, &deflate_, &statistics_, nullptr, &reporting_});
  reporting_.add({writable(4096)});
  reporting_.kick();
  inflate_.add({readable(page_list({}))});
  EXPECT_TRUE(answers(inflate_));
  EXPECT_EQ(reporting_.used_index(), 0);
}

TEST_F(BalloonTest, StatisticsOnDemand) {
  activate();
  // The driver primes the queue with a first report.
  statistics_.add({readable(entries({{4, 1000}, {5, 2000}}))});
  statistics_.kick();
  auto answer = ask();
  ASSERT_TRUE(statistics_.wait_used()) << "the buffer comes back as a question";
  EXPECT_TRUE(interrupts_.wait_queue_used(2));
  statistics_.add(
      {readable(entries({{0, 1}, {2, 3}, {4, 1001}, {5, 2000}, {6, 1500}, {15, 9}, {99, 7}}))});
  statistics_.kick();
  const auto statistics = answer.get();
  ASSERT_TRUE(statistics) << statistics.error().message();
  EXPECT_EQ(statistics->get(BalloonStatistic::swap_in), 1u);
  EXPECT_EQ(statistics->get(BalloonStatistic::swap_out), std::nullopt);
  EXPECT_EQ(statistics->get(BalloonStatistic::major_faults), 3u);
  EXPECT_EQ(statistics->get(BalloonStatistic::free_memory), 1001u);
  EXPECT_EQ(statistics->get(BalloonStatistic::available_memory), 1500u);
  EXPECT_EQ(statistics->get(BalloonStatistic::direct_reclaims), 9u);
  EXPECT_EQ(balloon().last_statistics()->get(BalloonStatistic::free_memory), 1001u);
  EXPECT_EQ(kBalloonStatisticNames[static_cast<std::size_t>(BalloonStatistic::disk_caches)],
            "disk_caches");
}

TEST_F(BalloonTest, StatisticsWithoutADriver) {
  EXPECT_NE(ask().get().error().message().find("no balloon driver"), std::string::npos);
  activate(balloon().features() & ~BalloonDevice::kFeatureStatistics,
           {&inflate_, &deflate_, nullptr, nullptr, nullptr});
  EXPECT_NE(ask().get().error().message().find("no balloon driver"), std::string::npos);
}

TEST_F(BalloonTest, StatisticsOfADriverThatStops) {
  activate();
  auto answer = ask();
  // The request is in the loop before the deactivation.
  (void)balloon().deactivate();
  EXPECT_NE(answer.get().error().message().find("stopped"), std::string::npos);
}

TEST_F(BalloonTest, StatisticsOfADriverThatIsSilent) {
  activate();
  EXPECT_NE(ask().get().error().message().find("did not answer within 3 s"), std::string::npos);
}

TEST_F(BalloonTest, TheStatisticsBufferGoesBackIntoItsRing) {
  activate();
  statistics_.add({readable(entries({{4, 1000}}))});
  inflate_.add({readable(page_list({}))});
  statistics_.kick();
  ASSERT_TRUE(answers(inflate_));
  while (!balloon().last_statistics()) std::this_thread::yield();
  const auto queues = balloon().deactivate();
  EXPECT_EQ(queues[2]->in_flight(), 0u);
  EXPECT_EQ(queues[2]->next_avail(), 0);
  EXPECT_EQ(statistics_.used_index(), 0);
}

INSTANTIATE_TEST_SUITE_P(Balloon, DeviceSuite,
                         ::testing::Values(DeviceKind{
                             "balloon", [] { return std::make_unique<BalloonHarness>(); }}),
                         DeviceKind::test_name);

}  // namespace
}  // namespace vmm::virtio
