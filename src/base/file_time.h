// Times as one number, to be compared and kept.
#pragma once

#include <sys/stat.h>

#include <cstdint>

namespace vmm {

inline constexpr std::int64_t kNanosecondsPerSecond = 1'000'000'000;

// Of a file's time, since 1970.
inline std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * kNanosecondsPerSecond + time.tv_nsec;
}

}  // namespace vmm
