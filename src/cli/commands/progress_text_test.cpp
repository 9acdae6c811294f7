#include "src/cli/commands/progress_text.h"

#include <gtest/gtest.h>

namespace vmm::cli {
namespace {

using std::chrono::milliseconds;
constexpr std::uint64_t kMiB = 1u << 20;
constexpr JobProgress::State kHalf{"converting", 512 * kMiB, 1024 * kMiB};

TEST(ProgressBar, SaysWhatHowFarHowFastAndHowLong) {
  EXPECT_EQ(progress_bar(kHalf, 100.0 * kMiB, 100),
            "converting [====================>                   ]  50%  512 MiB of 1 GiB  "
            "100 MiB/s  0:06 left");
  EXPECT_EQ(progress_line(kHalf, 100.0 * kMiB),
            "converting: 50%, 512 MiB of 1 GiB, 100 MiB/s, 0:06 left");
}

TEST(ProgressBar, FitsEachWidth) {
  for (const double rate : {0.0, 5000.0, 100.0 * kMiB}) {
    for (std::size_t width = 0; width < 200; ++width) {
      EXPECT_LE(progress_bar(kHalf, rate, width).size(), width) << width;
    }
  }
  EXPECT_EQ(progress_bar(kHalf, 100.0 * kMiB, 60),
            "converting 50%  512 MiB of 1 GiB  100 MiB/s  0:06 left");
  EXPECT_EQ(progress_bar(kHalf, 100.0 * kMiB, 40), "converting 50%  512 MiB of 1 GiB");
  EXPECT_EQ(progress_bar(kHalf, 100.0 * kMiB, 20), "converting 50%");
  EXPECT_EQ(progress_bar(kHalf, 100.0 * kMiB, 5), "50%");
}

TEST(ProgressBar, SaysNothingThatItDoesNotKnow) {
  EXPECT_EQ(progress_line(kHalf, 0), "converting: 50%, 512 MiB of 1 GiB");
  EXPECT_EQ(progress_line({"writing to disk", 0, 0}, 0), "writing to disk");
  EXPECT_EQ(progress_bar({"writing to disk", 7, 0}, 5, 100), "writing to disk");
  EXPECT_EQ(progress_line({"converting", 0, 1024 * 1024 * kMiB}, 1),
            "converting: 0%, 0 bytes of 1 TiB, 1 bytes/s")
      << "a time of years is not told";
  EXPECT_EQ(progress_line({"converting", 0, 3723}, 1),
            "converting: 0%, 0 bytes of 3.6 KiB, 1 bytes/s, 1:02:03 left");
}

TEST(ProgressBar, NeverSaysMoreThanAll) {
  EXPECT_EQ(progress_line({"exporting", 130 * kMiB, 100 * kMiB}, 1.0 * kMiB),
            "exporting: 100%, 100 MiB of 100 MiB, 1 MiB/s, 0:00 left");
  EXPECT_LE(progress_bar({"exporting", 130 * kMiB, 100 * kMiB}, 0, 80).size(), 80u);
}

TEST(RateMeter, MeasuresTheLastSecondsOfAPhase) {
  RateMeter meter;
  const RateMeter::Time begin{};
  EXPECT_EQ(meter.add({"a", 0, 100 * kMiB}, begin), 0);
  EXPECT_EQ(meter.add({"a", kMiB, 100 * kMiB}, begin + milliseconds(100)), 0) << "too early";
  EXPECT_NEAR(meter.add({"a", 10 * kMiB, 100 * kMiB}, begin + milliseconds(1000)), 10.0 * kMiB, 1);
  // It stands still: what was fast ten seconds ago does not count.
  double rate = 1;
  for (int i = 0; i < 100; ++i) {
    rate = meter.add({"a", 10 * kMiB, 100 * kMiB}, begin + milliseconds(1000 + 100 * i));
  }
  EXPECT_EQ(rate, 0);
  // Another phase begins anew.
  EXPECT_EQ(meter.add({"b", 0, 50}, begin + milliseconds(11'000)), 0);
  EXPECT_NEAR(meter.add({"b", 20, 50}, begin + milliseconds(12'000)), 20, 0.01);
}

}  // namespace
}  // namespace vmm::cli
