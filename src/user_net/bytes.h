// Numbers of packet headers: in network order, at any offset. The caller has checked the size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace vmm::user_net {

inline constexpr std::size_t kEthernet = 14;
inline constexpr std::size_t kIpv4Header = 20;  // without options
inline constexpr std::size_t kIpv6Header = 40;
inline constexpr std::uint16_t kTypeIpv4 = 0x0800;
inline constexpr std::uint16_t kTypeArp = 0x0806;
inline constexpr std::uint16_t kTypeIpv6 = 0x86dd;

inline std::uint8_t load8(std::span<const std::byte> bytes, std::size_t at) {
  return std::to_integer<std::uint8_t>(bytes[at]);
}
inline std::uint16_t load16(std::span<const std::byte> bytes, std::size_t at) {
  return static_cast<std::uint16_t>(load8(bytes, at) << 8 | load8(bytes, at + 1));
}
inline void store16(std::span<std::byte> bytes, std::size_t at, std::uint16_t value) {
  bytes[at] = static_cast<std::byte>(value >> 8);
  bytes[at + 1] = static_cast<std::byte>(value & 255);
}
// As they lie in memory: the checksum functions need no swapping (RFC 1071, 2 (B)).
inline void store_raw16(std::span<std::byte> bytes, std::size_t at, std::uint16_t value) {
  std::memcpy(&bytes[at], &value, sizeof value);
}
inline std::uint16_t load_raw16(std::span<const std::byte> bytes, std::size_t at) {
  std::uint16_t value;
  std::memcpy(&value, &bytes[at], sizeof value);
  return value;
}

}  // namespace vmm::user_net
