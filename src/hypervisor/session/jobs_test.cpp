#include "src/hypervisor/session/jobs.h"

#include <gtest/gtest.h>

namespace vmm {
namespace {

class JobsTest : public ::testing::Test {
 protected:
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& event : events_) {
      names.emplace_back(std::visit([]<typename T>(const T&) { return T::kName; }, event));
    }
    return names;
  }
  std::unique_ptr<EventLoop> loop_ = std::move(EventLoop::create().value());
  std::vector<protocol::Event> events_;
  Jobs jobs_{*loop_, [this](const auto& event) { events_.push_back(event); }};
};

TEST_F(JobsTest, TellOfTheirBeginningProgressAndEnd) {
  auto& job = jobs_.begin("snapshot", {});
  job.progress.begin("writing", 100);
  ASSERT_TRUE(job.progress.advance(40));
  const auto list = jobs_.list();
  ASSERT_EQ(list.jobs.size(), 1u);
  EXPECT_EQ(list.jobs[0].phase, "writing");
  EXPECT_EQ(list.jobs[0].done, 40u);
  EXPECT_EQ(list.jobs[0].total, 100u);
  // Progress is told while the loop runs.
  loop_->add_timer(EventLoop::Clock::now() + std::chrono::milliseconds(700), [&] {
    jobs_.finish(job.number, std::string("{}"));
    loop_->stop();
  });
  loop_->run();
  EXPECT_EQ(names(), (std::vector<std::string>{"job-started", "job-progress", "job-finished"}))
      << "what did not change is told once";
  EXPECT_TRUE(jobs_.empty());
}

TEST_F(JobsTest, AreCancelledOnce) {
  int cancelled = 0;
  const auto& job = jobs_.begin("snapshot", [&] { ++cancelled; });
  EXPECT_TRUE(jobs_.cancel(job.number));
  EXPECT_TRUE(jobs_.cancel(job.number));
  EXPECT_EQ(cancelled, 1);
  EXPECT_TRUE(jobs_.list().jobs.at(0).cancelled);
  jobs_.finish(1, fail("cancelled"));
  EXPECT_EQ(std::get<protocol::JobFinished>(events_.back()).error, "cancelled");
  EXPECT_EQ(jobs_.cancel(1).error().message(), "job 1 has ended");
  EXPECT_EQ(jobs_.cancel(2).error().message(), "no job 2: `jobs` lists them");
  EXPECT_FALSE(jobs_.cancel(0));
}

}  // namespace
}  // namespace vmm
