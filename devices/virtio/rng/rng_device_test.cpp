#include "devices/virtio/rng/rng_device.h"

#include <gtest/gtest.h>

#include <set>

#include "devices/virtio/device_suite_test.h"
#include "src/base/worker.h"

namespace vmm::virtio {
namespace {

using test::readable;
using test::writable;

class RngHarness : public DeviceHarness {
 public:
  ~RngHarness() override { device_.reset(); }
  Device& device() override { return *device_; }

 private:
  std::unique_ptr<Worker> worker_ = std::move(Worker::start("rng").value());
  std::unique_ptr<RngDevice> device_ = std::make_unique<RngDevice>(worker_->loop());
};

class RngTest : public ::testing::Test {
 protected:
  void activate() {
    ASSERT_TRUE(harness_.device().activate(test::activation_of(
        harness_.ram().memory(), harness_.device().features(), {&driver_}, interrupts_)));
  }
  void TearDown() override { (void)harness_.device().deactivate(); }

  RngHarness harness_;
  test::DriverQueue driver_{harness_.ram(), 64};
  test::TestInterrupts interrupts_;
};

TEST_F(RngTest, FillsBuffers) {
  activate();
  std::set<std::string> seen;
  for (int i = 0; i < 8; ++i) {
    const auto head = driver_.add({writable(32), writable(16)});
    driver_.kick();
    const auto used = driver_.wait_used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->written, 48u);
    seen.insert(driver_.text(head, 0));
    seen.insert(driver_.text(head, 1) + driver_.text(head, 1));
  }
  EXPECT_EQ(seen.size(), 16u) << "all different";
  EXPECT_TRUE(interrupts_.wait_queue_used(0));
}

TEST_F(RngTest, GivesABoundedAmountToARequest) {
  activate();
  const auto head = driver_.add({writable(RngDevice::kMaxRequest - 8), writable(4096)});
  driver_.kick();
  const auto used = driver_.wait_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->written, RngDevice::kMaxRequest);
  EXPECT_EQ(driver_.text(head, 1).substr(8), std::string(4088, '\0'));
}

TEST_F(RngTest, ServesMoreThanOneTurn) {
  activate();
  for (int i = 0; i < 20; ++i) driver_.add({writable(RngDevice::kMaxRequest)});
  driver_.kick();
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(driver_.wait_used()) << i;
}

TEST_F(RngTest, ServesWhatWaitedBeforeActivation) {
  driver_.add({writable(16)});
  activate();
  EXPECT_TRUE(driver_.wait_used());
}

TEST_F(RngTest, GivesNothingWhereThereIsNoRoom) {
  activate();
  driver_.add({readable("please")});
  driver_.kick();
  const auto used = driver_.wait_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->written, 0u);
}

INSTANTIATE_TEST_SUITE_P(Rng, DeviceSuite,
                         ::testing::Values(DeviceKind{
                             "rng", [] { return std::make_unique<RngHarness>(); }}),
                         DeviceKind::test_name);

}  // namespace
}  // namespace vmm::virtio
