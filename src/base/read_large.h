// read_large_at(): as read_exact_at(), by several threads where that is worth it: filling fresh
// memory from the page cache is as slow as one processor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "src/base/result.h"

namespace vmm {

Result<void> read_large_at(int fd, std::span<std::byte> buffer, std::uint64_t offset);

}  // namespace vmm
