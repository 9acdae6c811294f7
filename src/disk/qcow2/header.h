// Header: the first cluster of an image, checked: whatever it says lies inside of the file and of
// the limits in format.h.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/disk/qcow2/format.h"

namespace vmm::disk::qcow2 {

enum class Compression : std::uint8_t { zlib = 0, zstd = 1 };

struct Header {
  std::uint32_t version = 3;
  std::uint32_t cluster_bits = kDefaultClusterBits;
  std::uint64_t size = 0;  // of the disk, in bytes
  std::uint64_t l1_offset = 0;
  std::uint32_t l1_entries = 0;
  std::uint64_t refcount_table_offset = 0;
  std::uint32_t refcount_table_clusters = 0;
  std::uint32_t snapshots = 0;
  std::uint64_t snapshots_offset = 0;
  std::uint64_t incompatible = 0;
  std::uint64_t compatible = 0;
  std::uint64_t autoclear = 0;
  std::uint32_t refcount_order = 4;
  Compression compression = Compression::zlib;
  std::string backing_path;    // as it stands in the image; empty: none
  std::string backing_format;  // empty: not said

  std::uint64_t cluster_size() const { return 1ull << cluster_bits; }
  std::uint32_t l2_bits() const { return cluster_bits - 3; }
  std::uint64_t l2_entries() const { return 1ull << l2_bits(); }
  // Bytes of the disk that one L2 table covers.
  std::uint64_t l2_span() const { return 1ull << (cluster_bits + l2_bits()); }
  std::uint64_t clusters() const {
    return size / cluster_size() + (size % cluster_size() != 0 ? 1 : 0);
  }
  std::uint32_t refcounts_per_block() const { return 1u << (cluster_bits + 3 - refcount_order); }
  std::uint64_t max_refcount() const {
    return refcount_order == 6 ? UINT64_MAX : (1ull << (1u << refcount_order)) - 1;
  }
};

// Entries that an L1 table needs for a disk of `size` bytes.
std::uint64_t needed_l1_entries(std::uint64_t size, std::uint32_t cluster_bits);

// How many bytes parse_header() wants to see: the first cluster. `start` are 24 bytes or more.
Result<std::uint64_t> header_extent(std::span<const std::byte> start, const std::string& name);
// Errors are sentences about the image `name`.
Result<Header> parse_header(std::span<const std::byte> cluster, std::uint64_t file_size,
                            const std::string& name);

// The first cluster of a new image of version 3, without the zeroes at its end; what does not fit
// is an error.
Result<std::vector<std::byte>> encode_header(const Header& header);

// The same header, which parse_header() took, over another backing file; an empty path: none. All
// else stays, extensions that are not known too.
Result<std::vector<std::byte>> with_backing_file(std::span<const std::byte> cluster,
                                                 std::string_view path, std::string_view format);

bool has_magic(std::span<const std::byte> start);

}  // namespace vmm::disk::qcow2
