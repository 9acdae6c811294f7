#include "devices/virtio/served_queue.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "src/base/worker.h"
#include "tests/support/virtio_driver.h"

namespace vmm::virtio {
namespace {

using test::DriverQueue;
using test::GuestRam;
using test::TestInterrupts;
using test::writable;

class ServeTurnTest : public ::testing::TestWithParam<std::uint64_t> {
 protected:
  // Both ways in which a driver is asked for kicks.
  Queue make() { return Queue::create(ram_.memory(), driver_.config(), GetParam()).value(); }
  template <typename Handle>
  Turn turn(Queue& queue, std::size_t budget, Handle handle) {
    return serve_turn(
        queue, budget, [this] { return wanted_; }, handle,
        [this](std::string_view reason) { reason_ = reason; });
  }
  void add(unsigned chains) {
    for (unsigned i = 0; i < chains; ++i) driver_.add({writable(8)});
  }

  GuestRam ram_;
  DriverQueue driver_{ram_, 16};
  bool wanted_ = true;
  std::string reason_;
};
INSTANTIATE_TEST_SUITE_P(Kicks, ServeTurnTest, ::testing::Values(0, kFeatureEventIdx));

TEST_P(ServeTurnTest, TakesAllThatThereIs) {
  auto queue = make();
  add(3);
  unsigned served = 0;
  EXPECT_EQ(turn(queue, 100, [&](Chain&) { return Handled::used(++served); }), Turn::empty);
  for (unsigned i = 1; i <= 3; ++i) EXPECT_EQ(driver_.poll_used()->written, i);
  EXPECT_FALSE(driver_.poll_used());
  EXPECT_EQ(queue.in_flight(), 0u);
}

TEST_P(ServeTurnTest, WhatComesMeanwhileIsNotMissed) {
  auto queue = make();
  add(1);
  unsigned served = 0;
  EXPECT_EQ(turn(queue, 100,
                 [&](Chain&) {
                   if (++served < 5) add(1);
                   return Handled::used(0);
                 }),
            Turn::empty);
  EXPECT_EQ(served, 5u);
}

TEST_P(ServeTurnTest, EndsWithItsBudget) {
  auto queue = make();
  add(6);
  unsigned served = 0;
  const auto handle = [&](Chain&) {
    ++served;
    return Handled::used(0, 10);
  };
  EXPECT_EQ(turn(queue, 25, handle), Turn::spent);
  EXPECT_EQ(served, 3u);
  EXPECT_EQ(turn(queue, 1000, handle), Turn::empty);
  EXPECT_EQ(served, 6u);
}

TEST_P(ServeTurnTest, WaitsForOthers) {
  auto queue = make();
  add(3);
  unsigned served = 0;
  const auto handle = [&](Chain&) {
    if (++served == 2) wanted_ = false;
    return Handled::used(0);
  };
  EXPECT_EQ(turn(queue, 100, handle), Turn::waits);
  EXPECT_EQ(served, 2u);
  EXPECT_EQ(turn(queue, 100, handle), Turn::waits) << "asked before anything is taken";
  EXPECT_EQ(served, 2u);
  wanted_ = true;
  EXPECT_EQ(turn(queue, 100, [](Chain&) { return Handled::not_yet(); }), Turn::waits);
  EXPECT_EQ(queue.in_flight(), 0u) << "it is back";
  EXPECT_EQ(turn(queue, 100, handle), Turn::empty);
  EXPECT_EQ(served, 3u);
}

TEST_P(ServeTurnTest, KeptChainsArePushedLater) {
  auto queue = make();
  add(2);
  std::vector<Chain> kept;
  EXPECT_EQ(turn(queue, 100,
                 [&](Chain& chain) {
                   kept.push_back(std::move(chain));
                   return Handled::kept();
                 }),
            Turn::empty);
  EXPECT_EQ(queue.in_flight(), 2u);
  EXPECT_FALSE(driver_.poll_used());
  for (auto& chain : kept) queue.push(std::move(chain), 7);
  EXPECT_EQ(driver_.poll_used()->written, 7u);
}

// Who has something to do before the driver is to kick again says so.
TEST_P(ServeTurnTest, ADryRingAsksForNoKicksByItself) {
  auto queue = make();
  add(2);
  queue.disable_kicks();
  unsigned served = 0, asked = 0;
  const auto serve = [&](bool again) {
    return serve_chains(
        queue, 100, [] { return true; },
        [&](Chain&) {
          ++served;
          return Handled::used(0);
        },
        [&] { return ++asked == 1 && again; }, [](std::string_view) {});
  };
  EXPECT_EQ(serve(true), Turn::empty);
  EXPECT_EQ(served, 2u);
  EXPECT_EQ(asked, 2u);
  add(1);
  const bool has_event = GetParam() == kFeatureEventIdx;
  EXPECT_FALSE(has_event && driver_.wants_kick());
  EXPECT_TRUE(look_once_more(queue)) << "it came before it was asked for";
  EXPECT_EQ(serve(false), Turn::empty);
  EXPECT_FALSE(look_once_more(queue));
  add(1);
  EXPECT_TRUE(!has_event || driver_.wants_kick());
}

TEST_P(ServeTurnTest, BrokenRules) {
  auto queue = make();
  add(1);
  EXPECT_EQ(turn(queue, 100, [](Chain&) { return Handled::refused("too long"); }), Turn::broken);
  EXPECT_EQ(reason_, "too long");
  EXPECT_EQ(queue.in_flight(), 0u);
  driver_.set_avail_index(1000);
  EXPECT_EQ(turn(queue, 100, [](Chain&) { return Handled::used(0); }), Turn::broken);
  EXPECT_NE(reason_, "too long");
}

class ServedQueueTest : public ::testing::Test {
 protected:
  void TearDown() override {
    on_loop([this] { served_.reset(); });
  }
  template <typename Task>
  void on_loop(Task task) {
    worker_->loop().call(task);
  }
  void start(std::size_t budget, ServedQueue::Handle handle) {
    on_loop([&] {
      served_ = std::make_unique<ServedQueue>(
          worker_->loop(), std::uint16_t{4},
          ActiveQueue{Queue::create(ram_.memory(), driver_.config(), 0).value(),
                      &driver_.kick_fd()},
          interrupts_, budget, std::move(handle),
          [this](std::string_view reason) { interrupts_.needs_reset(reason); });
      EXPECT_TRUE(served_->start());
    });
  }

  GuestRam ram_;
  DriverQueue driver_{ram_, 64};
  TestInterrupts interrupts_;
  std::unique_ptr<Worker> worker_ = std::move(Worker::start("queue").value());
  std::unique_ptr<ServedQueue> served_;
};

TEST_F(ServedQueueTest, ServesWhatWaitsAndWhatIsKicked) {
  driver_.add({writable(8)});
  start(10, [](Chain&) { return Handled::used(8); });
  EXPECT_TRUE(driver_.wait_used());
  EXPECT_TRUE(interrupts_.wait_queue_used(4));
  driver_.add({writable(8)});
  driver_.kick();
  EXPECT_TRUE(driver_.wait_used());
}

// Each turn is one chain, and only one kick came.
TEST_F(ServedQueueTest, ComesBackForTheRest) {
  start(1, [](Chain&) { return Handled::used(8); });
  for (int i = 0; i < 40; ++i) driver_.add({writable(8)});
  driver_.kick();
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(driver_.wait_used()) << i;
}

TEST_F(ServedQueueTest, ABrokenOneIsLeftAlone) {
  unsigned served = 0;
  start(10, [&](Chain&) {
    ++served;
    return Handled::refused("no frame");
  });
  driver_.add({writable(8)});
  driver_.kick();
  ASSERT_TRUE(interrupts_.wait_needs_reset());
  EXPECT_EQ(interrupts_.reason(), "no frame");
  driver_.add({writable(8)});
  driver_.kick();
  on_loop([] {});  // the kick was seen before
  EXPECT_EQ(driver_.used_index(), 0);
  on_loop([&] { EXPECT_EQ(served, 1u); });
}

TEST_F(ServedQueueTest, AStoppedOneHearsNoKicks) {
  start(10, [](Chain&) { return Handled::used(8); });
  std::optional<Queue> queue;
  on_loop([&] { queue = served_->stop(); });
  driver_.add({writable(8)});
  driver_.kick();
  on_loop([] {});
  EXPECT_EQ(driver_.used_index(), 0);
  EXPECT_EQ(queue->available().value(), 1);
}

}  // namespace
}  // namespace vmm::virtio
