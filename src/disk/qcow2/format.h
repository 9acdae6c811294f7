// The numbers of the qcow2 format (QEMU, docs/interop/qcow2.txt). All fields are big-endian.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vmm::disk::qcow2 {

inline constexpr std::uint32_t kMagic = 0x514649fb;  // "QFI\xfb"
inline constexpr std::size_t kHeaderSizeV2 = 72;
inline constexpr std::size_t kHeaderSizeV3 = 104;
inline constexpr std::uint32_t kMinClusterBits = 9;
inline constexpr std::uint32_t kMaxClusterBits = 21;
inline constexpr std::uint32_t kDefaultClusterBits = 16;
inline constexpr std::uint32_t kMaxRefcountOrder = 6;

// What an image may make us keep in memory; QEMU has the same limits.
inline constexpr std::uint64_t kMaxL1Bytes = 32u << 20;
inline constexpr std::uint64_t kMaxRefcountTableBytes = 8u << 20;
inline constexpr std::uint64_t kMaxSnapshots = 65536;
inline constexpr std::size_t kMaxBackingName = 1023;
inline constexpr std::size_t kMaxChain = 65;  // a disk over 64 layers

// Offsets of header fields that are written one by one.
inline constexpr std::uint64_t kBackingField = 8;  // offset (8), then bytes (4)
inline constexpr std::uint64_t kSizeField = 24;
inline constexpr std::uint64_t kL1Field = 36;             // entries (4), then offset (8)
inline constexpr std::uint64_t kRefcountTableField = 48;  // offset (8), then clusters (4)
inline constexpr std::uint64_t kIncompatibleField = 72;
inline constexpr std::uint64_t kAutoclearField = 88;

inline constexpr std::uint64_t kIncompatibleDirty = 1u << 0;
inline constexpr std::uint64_t kIncompatibleCorrupt = 1u << 1;
inline constexpr std::uint64_t kIncompatibleDataFile = 1u << 2;
inline constexpr std::uint64_t kIncompatibleCompression = 1u << 3;
inline constexpr std::uint64_t kIncompatibleExtendedL2 = 1u << 4;
inline constexpr std::uint64_t kAutoclearBitmaps = 1u << 0;

inline constexpr std::uint32_t kExtensionEnd = 0;
inline constexpr std::uint32_t kExtensionBackingFormat = 0xe2792aca;
inline constexpr std::uint32_t kExtensionFeatureNames = 0x6803f857;

// Entries of L1 and L2 tables.
inline constexpr std::uint64_t kCopied = 1ull << 63;      // its refcount is exactly one
inline constexpr std::uint64_t kCompressed = 1ull << 62;  // L2
inline constexpr std::uint64_t kZero = 1;                 // L2, version 3: reads as zeroes
inline constexpr std::uint64_t kOffsetMask = 0x00fffffffffffe00;
inline constexpr std::uint64_t kReservedL1 = 0x7f000000000001ff;
inline constexpr std::uint64_t kReservedL2 = 0x3f000000000001fe;  // not of compressed clusters
inline constexpr std::uint64_t kReservedRefcountTable = 0x1ff;

template <typename T>
T load(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  return value;
}

template <typename T>
void store(void* to, T value) {
  if constexpr (sizeof(T) == 8) value = __builtin_bswap64(value);
  if constexpr (sizeof(T) == 4) value = __builtin_bswap32(value);
  if constexpr (sizeof(T) == 2) value = __builtin_bswap16(value);
  std::memcpy(to, &value, sizeof value);
}

constexpr std::uint64_t round_down(std::uint64_t value, std::uint64_t unit) {
  return value / unit * unit;
}
// Callers keep `value` far below the largest number.
constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace vmm::disk::qcow2
