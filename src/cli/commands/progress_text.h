// What a person reads while long work runs: one line of a terminal, or of a log.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <string>

#include "src/base/progress.h"

namespace vmm::cli {

// How fast a phase advances, over the last seconds.
class RateMeter {
 public:
  using Time = std::chrono::steady_clock::time_point;
  // Bytes a second as of `now`; 0 as long as it is not known. Call it some times a second.
  double add(const JobProgress::State& state, Time now);

 private:
  struct Sample {
    Time time;
    std::uint64_t done;
  };
  std::string_view phase_;
  std::deque<Sample> samples_;
};

// "converting [=====>    ]  42%  1.2 GiB of 2.9 GiB  312 MiB/s  0:05 left", at most `width`
// columns: in a narrow terminal first the bar, then what stands last is left out.
std::string progress_bar(const JobProgress::State& state, double rate, std::size_t width);
// "converting: 42%, 1.2 GiB of 2.9 GiB, 312 MiB/s, 0:05 left"
std::string progress_line(const JobProgress::State& state, double rate);

}  // namespace vmm::cli
