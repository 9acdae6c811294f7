#include "src/disk/buffers.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace vmm::disk {

std::vector<iovec> skip_bytes(std::span<const iovec> buffers, std::uint64_t count) {
  std::vector<iovec> rest;
  rest.reserve(buffers.size());
  for (const auto& buffer : buffers) {
    const auto skipped = std::min<std::uint64_t>(count, buffer.iov_len);
    count -= skipped;
    if (skipped == buffer.iov_len) continue;
    rest.push_back({static_cast<std::byte*>(buffer.iov_base) + skipped, buffer.iov_len - skipped});
  }
  return rest;
}

std::vector<iovec> take_bytes(std::span<const iovec> buffers, std::uint64_t count) {
  std::vector<iovec> taken;
  for (const auto& buffer : buffers) {
    if (count == 0) break;
    const auto size = std::min<std::uint64_t>(count, buffer.iov_len);
    count -= size;
    if (size > 0) taken.push_back({buffer.iov_base, size});
  }
  return taken;
}

void copy_bytes(std::span<const iovec> buffers, const iovec& flat, Direction direction) {
  std::size_t done = 0;
  for (const auto& buffer : buffers) {
    const std::size_t piece = std::min(buffer.iov_len, flat.iov_len - done);
    if (piece == 0) continue;
    std::byte* at = static_cast<std::byte*>(flat.iov_base) + done;
    if (direction == Direction::to_buffers) {
      std::memcpy(buffer.iov_base, at, piece);
    } else {
      std::memcpy(at, buffer.iov_base, piece);
    }
    done += piece;
  }
}

}  // namespace vmm::disk
