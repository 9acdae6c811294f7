#include "src/base/sparse_file.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace vmm {

Result<DataRange> next_data(int fd, std::uint64_t offset, std::uint64_t end) {
  if (offset >= end) return DataRange{end, 0};
  const off_t data = ::lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0 && errno == ENXIO) return DataRange{end, 0};
  const off_t hole = data < 0 ? data : ::lseek(fd, data, SEEK_HOLE);
  if (hole < 0) {
    if (errno == EINVAL || errno == EOPNOTSUPP) return DataRange{offset, end - offset};
    return fail_errno("cannot find the holes of a file from {} on", offset);
  }
  // Data may end behind `end`, or begin there.
  const auto first = std::min(static_cast<std::uint64_t>(data), end);
  return DataRange{first, std::min(static_cast<std::uint64_t>(hole), end) - first};
}

}  // namespace vmm
