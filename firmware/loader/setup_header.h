// Offsets of fields of the setup header, in a bzImage and in the zero page alike (boot.rst,
// "Details of Header Fields").
#pragma once

#include <cstddef>

namespace vmm::loader::setup {

inline constexpr std::size_t kBootFlag = 0x1fe;
inline constexpr std::size_t kHeaderMagic = 0x202;
inline constexpr std::size_t kVersion = 0x206;
inline constexpr std::size_t kLoadFlags = 0x211;
inline constexpr std::size_t kAlignment = 0x230;
inline constexpr std::size_t kCommandLineMax = 0x238;

}  // namespace vmm::loader::setup
