// What all PrimeCell devices have in common: eight registers at the end of their page, by which a
// driver recognises them.
#pragma once

#include <cstdint>

namespace vmm::primecell {

inline constexpr std::uint64_t kSize = 0x1000;  // bytes of registers
inline constexpr std::uint64_t kIdentity = 0xfe0;

// The register at `offset`, of kIdentity on: part number, designer (Arm, 0x41) and revision 0 a
// byte a register, then the constant of the class.
constexpr std::uint32_t identity(std::uint64_t offset, std::uint32_t part, std::uint32_t revision) {
  const std::uint32_t peripheral = part | 0x41u << 12 | revision << 20;
  constexpr std::uint32_t kClass = 0xb105'f00d;
  const std::uint64_t index = (offset - kIdentity) / 4;
  const std::uint32_t value = index < 4 ? peripheral : kClass;
  return value >> (8 * (index & 3)) & 0xff;
}

}  // namespace vmm::primecell
