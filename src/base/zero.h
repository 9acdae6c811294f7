// Whether bytes are all zero, as quick as memory allows.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

namespace vmm {

inline bool is_zero(std::span<const std::byte> bytes) {
  if (bytes.empty()) return true;
  if (bytes[0] != std::byte{0}) return false;
  // Equal to itself, one byte on: memcmp is the vector code that there is for every processor.
  return std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

}  // namespace vmm
