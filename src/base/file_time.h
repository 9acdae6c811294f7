// A file's time as one number, to be compared and kept.
#pragma once

#include <sys/stat.h>

#include <cstdint>

namespace vmm {

// Since 1970.
inline std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace vmm
