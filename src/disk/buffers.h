// Arithmetic on lists of buffers.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <vector>

namespace vmm::disk {

// The list without its first `count` bytes.
std::vector<iovec> skip_bytes(std::span<const iovec> buffers, std::uint64_t count);

// The first `count` bytes of the list.
std::vector<iovec> take_bytes(std::span<const iovec> buffers, std::uint64_t count);

enum class Direction : std::uint8_t { to_buffers, from_buffers };
// Copies between the start of the list and `flat`, as much as the shorter one holds.
void copy_bytes(std::span<const iovec> buffers, const iovec& flat, Direction direction);

}  // namespace vmm::disk
