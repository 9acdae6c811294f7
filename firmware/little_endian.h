// Little-endian integers in byte strings, for tables and headers whose layout others define.
//
//   std::vector<std::byte> table;
//   append_le(table, std::uint32_t{0x1000});
//   put_le(table, 4, length);                              // overwrites what is there
//   const auto version = get_le<std::uint16_t>(header, 0x206);
//
// The offsets are the caller's to check: get_le and put_le never leave the span (they read zero, or
// write nothing), but do not say so.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace vmm {

static_assert(std::endian::native == std::endian::little, "both architectures of vmm are");

template <std::unsigned_integral T>
void append_le(std::vector<std::byte>& bytes, T value) {
  const std::size_t at = bytes.size();
  bytes.resize(at + sizeof(T));
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

template <std::unsigned_integral T>
void put_le(std::span<std::byte> bytes, std::size_t offset, T value) {
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) return;
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

template <std::unsigned_integral T>
T get_le(std::span<const std::byte> bytes, std::size_t offset) {
  T value = 0;
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) return value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

}  // namespace vmm
