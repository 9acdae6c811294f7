// What a virtio block device and its driver exchange (virtio 1.2, 5.2). All little endian.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmm::virtio::blk {

// Feature bits (5.2.3).
inline constexpr std::uint64_t kFeatureSegMax = 1ull << 2;
inline constexpr std::uint64_t kFeatureReadOnly = 1ull << 5;
inline constexpr std::uint64_t kFeatureBlockSize = 1ull << 6;
inline constexpr std::uint64_t kFeatureFlush = 1ull << 9;
inline constexpr std::uint64_t kFeatureTopology = 1ull << 10;
inline constexpr std::uint64_t kFeatureMultiQueue = 1ull << 12;
inline constexpr std::uint64_t kFeatureDiscard = 1ull << 13;
inline constexpr std::uint64_t kFeatureWriteZeroes = 1ull << 14;

// Configuration space (5.2.4).
struct [[gnu::packed]] Config {
  std::uint64_t capacity = 0;  // sectors of 512 bytes
  std::uint32_t size_max = 0;
  std::uint32_t seg_max = 0;
  std::uint16_t cylinders = 0;
  std::uint8_t heads = 0;
  std::uint8_t sectors = 0;
  std::uint32_t block_size = 0;
  std::uint8_t physical_block_exponent = 0;  // physical block = block_size << this
  std::uint8_t alignment_offset = 0;
  std::uint16_t min_io_size = 0;  // blocks
  std::uint32_t opt_io_size = 0;  // blocks
  std::uint8_t writeback = 0;
  std::uint8_t unused0 = 0;
  std::uint16_t num_queues = 0;
  std::uint32_t max_discard_sectors = 0;
  std::uint32_t max_discard_segments = 0;
  std::uint32_t discard_sector_alignment = 0;
  std::uint32_t max_write_zeroes_sectors = 0;
  std::uint32_t max_write_zeroes_segments = 0;
  std::uint8_t write_zeroes_may_unmap = 0;
  std::uint8_t unused1[3] = {};
  std::uint32_t max_secure_erase_sectors = 0;
  std::uint32_t max_secure_erase_segments = 0;
  std::uint32_t secure_erase_sector_alignment = 0;
};
static_assert(sizeof(Config) == 72);
static_assert(offsetof(Config, block_size) == 20);
static_assert(offsetof(Config, num_queues) == 34);
static_assert(offsetof(Config, max_discard_sectors) == 36);
static_assert(offsetof(Config, write_zeroes_may_unmap) == 56);

// Request types (5.2.6).
inline constexpr std::uint32_t kTypeIn = 0;
inline constexpr std::uint32_t kTypeOut = 1;
inline constexpr std::uint32_t kTypeFlush = 4;
inline constexpr std::uint32_t kTypeGetId = 8;
inline constexpr std::uint32_t kTypeDiscard = 11;
inline constexpr std::uint32_t kTypeWriteZeroes = 13;

// First in a request's readable bytes; its last writable byte is the status.
struct RequestHeader {
  std::uint32_t type = 0;
  std::uint32_t reserved = 0;
  std::uint64_t sector = 0;
};
static_assert(sizeof(RequestHeader) == 16);

// The data of a discard or write-zeroes request.
struct Segment {
  std::uint64_t sector = 0;
  std::uint32_t sectors = 0;
  std::uint32_t flags = 0;
};
static_assert(sizeof(Segment) == 16);
inline constexpr std::uint32_t kSegmentUnmap = 1;

enum class Status : std::uint8_t { ok = 0, io_error = 1, unsupported = 2 };

inline constexpr std::size_t kIdSize = 20;

}  // namespace vmm::virtio::blk
