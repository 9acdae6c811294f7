// Of bytes that the host sent and the guest has not read yet.
#pragma once

#include <cstddef>

namespace vmm {

// More than the chips' 16 bytes: a pasted line then costs one wake-up, and the guest can't tell.
inline constexpr std::size_t kReceiveLimit = 256;

}  // namespace vmm
