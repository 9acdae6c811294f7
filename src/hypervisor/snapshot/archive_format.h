// The parts of an archive (FORMAT.md, "An archive"): what one file has that holds a snapshot. All
// are to be read from hostile files: every size, count and offset is checked here, and nothing is
// allocated that the bytes at hand do not pay for.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"

namespace vmm::snapshot {

inline constexpr unsigned kArchiveVersion = 1;
inline constexpr std::uint32_t kArchivePage = 4096;
// The largest frame that a reader takes, in pages: 4 MiB are decoded at a time.
inline constexpr std::uint32_t kMaxFramePages = 1024;
// Bytes, decoded: of the index, and of the file `state`.
inline constexpr std::size_t kMaxIndex = 64u << 20;
// Runs of all of an archive's files: three bytes of an index each at least, 24 once decoded.
inline constexpr std::size_t kMaxRuns = 4u << 20;
inline constexpr std::size_t kMaxState = 64u << 20;
// Bytes that are not zero, of all of its files: a few pages may be named any number of times.
inline constexpr std::uint64_t kMaxUnpacked = std::uint64_t{64} << 40;

// Magic numbers of skippable frames (RFC 8878, 3.1.2): any of sixteen.
inline constexpr std::uint32_t kHeaderMagic = 0x184D2A50;
inline constexpr std::uint32_t kDigestMagic = 0x184D2A51;
inline constexpr std::uint32_t kSeekTableMagic = 0x184D2A5E;
inline constexpr std::size_t kSkippableHeader = 8;  // magic and size, 32 bit each

// 32 bit, little endian; the caller knows that they are there.
std::uint32_t number_at(std::span<const std::byte> bytes, std::size_t at);
std::vector<std::byte> skippable_frame(std::uint32_t magic, std::span<const std::byte> content);

// The first frame, JSON: readable without decoding anything.
struct ArchiveHeader {
  std::string architecture;
  std::string program;            // version of the vmm that made the snapshot
  std::uint32_t frame_pages = 0;  // how many pages each frame has, but for the last one
  std::string base;               // digest of the archive that this one builds on, or empty
  std::uint64_t base_pages = 0;   // how many unique pages that one and those below it have
};
std::string to_text(const ArchiveHeader& header);
Result<ArchiveHeader> parse_archive_header(std::string_view text);

// Pages of a file, one behind the other: `count` from page `page` on are the unique pages from
// `unique` on. The pages of the base count first, those of this archive follow.
struct PageRun {
  std::uint64_t page = 0;
  std::uint64_t count = 0;
  std::uint64_t unique = 0;
  friend bool operator==(const PageRun&, const PageRun&) = default;
};

struct ArchiveFile {
  std::string name;
  std::uint64_t size = 0;     // bytes
  std::vector<PageRun> runs;  // ascending; what no run has is zero

  std::uint64_t data() const;  // bytes of its runs
};

struct ArchiveIndex {
  std::string manifest;            // its text
  std::vector<ArchiveFile> files;  // state, kernel and initrd, the disks, memory
};
std::vector<std::byte> encode_index(const ArchiveIndex& index);
// `unique_pages` is how many there are, the base's among them.
Result<ArchiveIndex> decode_index(std::span<const std::byte> bytes, std::uint64_t unique_pages);

// The last frame: zstd's seekable format, version 0.1.0, without checksums. Each frame is in it,
// skippable ones with nothing decoded.
struct SeekEntry {
  std::uint32_t stored = 0;
  std::uint32_t decoded = 0;
};
inline constexpr std::size_t kSeekFooter = 9;
inline constexpr std::size_t kSeekEntry = 8;
std::vector<std::byte> encode_seek_table(std::span<const SeekEntry> entries);
// How many bytes the table's frame has, of the footer that the file ends in.
Result<std::size_t> seek_table_size(std::span<const std::byte, kSeekFooter> footer,
                                    std::uint64_t file_size);
Result<std::vector<SeekEntry>> decode_seek_table(std::span<const std::byte> frame);

}  // namespace vmm::snapshot
