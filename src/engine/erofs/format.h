// The part of EROFS's on-disk format that we write: uncompressed, blocks of 4 KiB, extended inodes,
// flat data (Documentation/filesystems/erofs.rst of Linux). All numbers are little-endian, as the
// processors are that this runs on.
#pragma once

#include <array>
#include <cstdint>

namespace vmm::erofs {

inline constexpr std::uint32_t kBlockSize = 4096;
inline constexpr std::uint32_t kBlockBits = 12;
inline constexpr std::uint32_t kSuperblockOffset = 1024;
inline constexpr std::uint64_t kMaxMetadata = 4ull << 30;  // bytes, of reader and writer
inline constexpr std::uint32_t kMagic = 0xe0f5e1e2;
inline constexpr std::uint32_t kCompatChecksum = 1;
inline constexpr std::uint32_t kCompatMtime = 2;  // inodes have the time of modification
inline constexpr std::uint32_t kSlotSize = 32;    // an inode's number counts these
inline constexpr std::size_t kMaxName = 255;
inline constexpr std::size_t kMaxTarget = 4095;       // of a symbolic link: PATH_MAX less NUL
inline constexpr std::size_t kMaxXattrs = 64u << 10;  // of an inode, as Linux lists them

struct Superblock {
  std::uint32_t magic;
  std::uint32_t checksum;  // CRC-32C of its block from here on, this field as 0
  std::uint32_t feature_compat;
  std::uint8_t block_bits;
  std::uint8_t extra_slots;
  std::uint16_t root_nid;
  std::uint64_t inodes;
  std::uint64_t build_time;
  std::uint32_t build_time_ns;
  std::uint32_t blocks;
  std::uint32_t meta_block;  // inode numbers count from its start
  std::uint32_t xattr_block;
  std::array<std::uint8_t, 16> uuid;
  std::array<std::uint8_t, 16> volume_name;
  std::uint32_t feature_incompat;
  std::array<std::uint8_t, 44> unused;
};
static_assert(sizeof(Superblock) == 128);

enum class DataLayout : std::uint8_t {
  flat_plain = 0,   // whole blocks
  flat_inline = 2,  // whole blocks, and the rest behind the inode
};

struct ExtendedInode {
  std::uint16_t format;  // bit 0: extended; bits 1 to 3: the data's layout
  std::uint16_t xattr_count;
  std::uint16_t mode;
  std::uint16_t reserved;
  std::uint64_t size;
  std::uint32_t block_or_device;  // first block of the data, or a device's number
  std::uint32_t inode_number;     // for stat() of 32 bits
  std::uint32_t uid, gid;
  std::uint64_t mtime;
  std::uint32_t mtime_ns;
  std::uint32_t links;
  std::array<std::uint8_t, 16> unused;
};
static_assert(sizeof(ExtendedInode) == 64);

// Before an inode's extended attributes; xattr_count is 1, and 1 for each 4 bytes of entries.
struct XattrHeader {
  std::uint32_t name_filter;
  std::uint8_t shared_count;
  std::array<std::uint8_t, 7> reserved;
};
static_assert(sizeof(XattrHeader) == 12);

// Before a name without its prefix and a value; padded to 4 bytes.
struct XattrEntry {
  std::uint8_t name_size;
  std::uint8_t prefix;
  std::uint16_t value_size;
};
static_assert(sizeof(XattrEntry) == 4);

// A block of a directory: entries, then the names of these, in the order of bytes over all blocks.
struct [[gnu::packed]] DirectoryEntry {
  std::uint64_t nid;
  std::uint16_t name_offset;
  std::uint8_t type;
  std::uint8_t reserved;
};
static_assert(sizeof(DirectoryEntry) == 12);

}  // namespace vmm::erofs
