#include "src/base/progress.h"

#include <gtest/gtest.h>

#include <thread>

namespace vmm {
namespace {

// As the example in progress.h.
Result<void> work(std::uint64_t pieces, Progress& progress) {
  progress.begin("working", pieces * 10);
  for (std::uint64_t i = 0; i < pieces; ++i) TRY(progress.advance(10));
  return {};
}

TEST(Progress, EachPhaseCountsFromZero) {
  JobProgress job;
  EXPECT_EQ(job.state().phase, "");
  ASSERT_TRUE(work(3, job));
  EXPECT_EQ(job.state().phase, "working");
  EXPECT_EQ(job.state().done, 30u);
  EXPECT_EQ(job.state().total, 30u);
  job.begin("more", 5);
  EXPECT_EQ(job.state().phase, "more");
  EXPECT_EQ(job.state().done, 0u);
  EXPECT_EQ(job.state().total, 5u);
}

TEST(Progress, CancelledWorkStopsAfterThePieceInHand) {
  JobProgress job;
  job.cancel();
  const auto result = work(3, job);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), kCancelled);
  EXPECT_EQ(job.state().done, 10u);
}

TEST(Progress, IsReadAndCancelledFromAnotherThread) {
  JobProgress job;
  Result<void> result;
  {
    const std::jthread worker([&] { result = work(UINT64_MAX / 10, job); });
    while (job.state().done == 0) std::this_thread::yield();
    job.cancel();
  }
  EXPECT_FALSE(result);
}

TEST(Progress, UnwatchedWorkRunsToItsEnd) { EXPECT_TRUE(work(3, Progress::none())); }

}  // namespace
}  // namespace vmm
