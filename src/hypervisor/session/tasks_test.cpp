#include "src/hypervisor/session/tasks.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>

namespace vmm {
namespace {

using namespace std::chrono_literals;

class TasksTest : public ::testing::Test {
 protected:
  std::unique_ptr<EventLoop> loop_ = std::move(EventLoop::create().value());
  Tasks tasks_{*loop_};
  std::string said_;
};

TEST_F(TasksTest, InOrderOneAfterTheOtherAndToldOnTheLoop) {
  const auto here = std::this_thread::get_id();
  std::thread::id first, second;
  tasks_.in_order(
      [&] {
        first = std::this_thread::get_id();
        std::promise<void>().get_future().wait_for(50ms);
        said_ += "a";
        return Result<void>();
      },
      [&](const Result<void>& done) {
        EXPECT_TRUE(done);
        EXPECT_EQ(std::this_thread::get_id(), here);
        EXPECT_EQ(tasks_.in_order(), 1u);
      });
  tasks_.in_order(
      [&]() -> Result<void> {
        second = std::this_thread::get_id();
        said_ += "b";
        return fail("it failed");
      },
      [&](const Result<void>& done) {
        EXPECT_EQ(done.error().message(), "it failed");
        loop_->stop();
      });
  EXPECT_EQ(tasks_.in_order(), 2u);
  loop_->run();
  EXPECT_EQ(said_, "ab");
  EXPECT_NE(first, here);
  EXPECT_EQ(first, second) << "who it starts may be told when it ends";
  EXPECT_EQ(tasks_.in_order(), 0u);
}

TEST_F(TasksTest, TheLoopGoesOnMeanwhile) {
  std::promise<void> hang;
  auto hanging = hang.get_future();
  const auto wait = [&] { return hanging.wait(), Result<void>(); };
  int looks = 0;
  const auto look = [&] {
    if (++looks == 6) hang.set_value();
  };
  tasks_.in_order(wait, [&](const Result<void>&) { loop_->stop(); });
  tasks_.beside(
      "test", [&]() -> Result<void> { throw std::bad_alloc(); },
      [&](const Result<void>& done) {
        EXPECT_FALSE(done) << "what it throws is its error";
        look();
      });
  for (int i = 1; i <= 5; ++i) {
    loop_->add_timer(EventLoop::Clock::now() + i * 10ms, look);
  }
  loop_->run();
  EXPECT_EQ(looks, 6);
}

}  // namespace
}  // namespace vmm
