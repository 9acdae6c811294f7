// In what sizes the tools that read whole disks work.
#pragma once

#include <cstdint>

namespace vmm::disk::qcow2 {

inline constexpr std::uint64_t kPiece = 2u << 20;  // bytes at once
inline constexpr std::uint64_t kHole = 4096;       // a raw file's holes are not smaller

}  // namespace vmm::disk::qcow2
