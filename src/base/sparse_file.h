// The holes of a file, as its file system tells them.
//
//   for (std::uint64_t at = 0; at < size;) {
//     const auto data = TRY(next_data(fd, at, size));
//     ... [data.offset, data.offset + data.length), when there is any ...
//     at = data.offset + data.length;
//   }
#pragma once

#include <cstdint>

#include "src/base/result.h"

namespace vmm {

// A part of a file or a disk, in bytes.
struct DataRange {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint64_t end() const { return offset + length; }
};

// The first part of [offset, end) that is not a hole; {end, 0} when there is none. All of it where
// nobody can tell: a block device, or a file system without holes.
Result<DataRange> next_data(int fd, std::uint64_t offset, std::uint64_t end);

}  // namespace vmm
