// Work that is cancelled at one point after the other, until it comes to its end:
//
//   for (unsigned at = 0;; ++at) {
//     CancelsAt progress(at);
//     const auto result = work(progress);
//     if (result) break;
//     ... nothing of it is left ...
//   }
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "src/base/progress.h"

namespace vmm::test {

class CancelsAt : public Progress {
 public:
  // At the advance of that number, and at all that follow.
  explicit CancelsAt(unsigned number) : left_(number) {}
  void begin(const char* phase, std::uint64_t total) override {
    EXPECT_LE(done_, total_ + kRounding) << phase_;
    phase_ = phase, total_ = total, done_ = 0;
  }
  Result<void> advance(std::uint64_t bytes) override {
    done_ += bytes;
    if (left_ == 0) return std::unexpected(Error("cancelled", kCancelled));
    --left_;
    return {};
  }

 private:
  // Data that begins or ends within a unit of the work.
  static constexpr std::uint64_t kRounding = 4u << 20;

  unsigned left_;
  std::string phase_;
  std::uint64_t done_ = 0, total_ = 0;
};

}  // namespace vmm::test
