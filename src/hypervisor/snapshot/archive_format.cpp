#include "src/hypervisor/snapshot/archive_format.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>

#include "src/base/json.h"
#include "src/hypervisor/state/archive.h"

namespace vmm::snapshot {
namespace {

using json = nlohmann::ordered_json;

constexpr std::string_view kArchiveFormat = "vmm-export";
constexpr std::uint32_t kSeekableMagic = 0x8F92EAB1;

// What the index is encoded as: fields of the state's serializer.
struct FileRecord {
  std::string name;
  std::uint64_t size = 0;
  std::vector<std::uint8_t> runs;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, name);
    archive(2, size);
    archive(3, runs);
  }
};
struct IndexRecord {
  std::string manifest;
  std::vector<FileRecord> files;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, manifest);
    archive(2, files);
  }
};

// LEB128: seven bits a byte, the lowest first.
void put_number(std::vector<std::uint8_t>& bytes, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<std::uint8_t>(value | 0x80));
  bytes.push_back(static_cast<std::uint8_t>(value));
}

Result<std::uint64_t> take_number(std::span<const std::uint8_t>& bytes) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 63; shift += 7) {
    if (bytes.empty()) return fail("a number is cut off");
    const std::uint8_t byte = bytes.front();
    bytes = bytes.subspan(1);
    value |= std::uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return value;
  }
  return fail("a number has more than 63 bits");
}

// Signed differences as small numbers: 0, -1, 1, -2, ...
std::uint64_t to_zigzag(std::int64_t value) {
  return (static_cast<std::uint64_t>(value) << 1) ^ static_cast<std::uint64_t>(value >> 63);
}
std::int64_t from_zigzag(std::uint64_t value) {
  return static_cast<std::int64_t>(value >> 1) ^ -static_cast<std::int64_t>(value & 1);
}

// Of each run: pages of zeroes before it, its length, and where its unique pages begin, from the
// end of those of the run before.
std::vector<std::uint8_t> encode_runs(std::span<const PageRun> runs) {
  std::vector<std::uint8_t> bytes;
  std::uint64_t page = 0, unique = 0;
  for (const auto& run : runs) {
    put_number(bytes, run.page - page);
    put_number(bytes, run.count);
    put_number(bytes, to_zigzag(static_cast<std::int64_t>(run.unique - unique)));
    page = run.page + run.count;
    unique = run.unique + run.count;
  }
  return bytes;
}

// At most `most` runs.
Result<std::vector<PageRun>> decode_runs(std::span<const std::uint8_t> bytes, std::size_t most,
                                         std::uint64_t pages, std::uint64_t unique_pages) {
  // Each number has one byte without a successor, each run three numbers.
  const auto numbers = std::ranges::count_if(bytes, [](std::uint8_t byte) { return byte < 0x80; });
  const auto count_of_runs = static_cast<std::size_t>(numbers) / 3;
  if (count_of_runs > most) return fail("more runs of pages than are possible ({})", kMaxRuns);
  std::vector<PageRun> runs;
  runs.reserve(count_of_runs);
  std::uint64_t page = 0, unique = 0;
  while (!bytes.empty()) {
    const auto gap = TRY(take_number(bytes));
    const auto count = TRY(take_number(bytes));
    const auto first =
        unique + static_cast<std::uint64_t>(from_zigzag(TRY(take_number(bytes))));  // may wrap
    if (gap > pages - page || count == 0 || count > pages - page - gap) {
      return fail("a run of {} pages behind page {} of {}", count, page, pages);
    }
    if (first > unique_pages || count > unique_pages - first) {
      return fail("a run of the pages {} to {} of {}", first, first + count, unique_pages);
    }
    runs.push_back({page + gap, count, first});
    page += gap + count;
    unique = first + count;
  }
  return runs;
}

void append_number(std::vector<std::byte>& bytes, std::uint32_t value) {
  const auto raw = std::as_bytes(std::span(&value, 1));
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

Result<ArchiveHeader> header_of(const json& root) {
  ArchiveHeader header;
  header.architecture = root.at("architecture").get<std::string>();
  header.program = root.at("program").get<std::string>();
  if (root.at("page").get<std::uint32_t>() != kArchivePage) {
    return fail("it has pages of another size than {}", kArchivePage);
  }
  header.frame_pages = root.at("frame_pages").get<std::uint32_t>();
  if (header.frame_pages == 0 || header.frame_pages > kMaxFramePages) {
    return fail("invalid frame size of {} pages: expected 1 to {}", header.frame_pages,
                kMaxFramePages);
  }
  if (root.contains("base")) {
    header.base = root["base"].at("digest").get<std::string>();
    header.base_pages = root["base"].at("pages").get<std::uint64_t>();
    constexpr std::uint64_t kMost = std::uint64_t{1} << 48;
    if (header.base.size() != 64 || header.base_pages > kMost) {
      return fail("its header names an invalid base");
    }
  }
  return header;
}

}  // namespace

std::uint32_t number_at(std::span<const std::byte> bytes, std::size_t at) {
  std::uint32_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

std::vector<std::byte> skippable_frame(std::uint32_t magic, std::span<const std::byte> content) {
  std::vector<std::byte> frame;
  frame.reserve(kSkippableHeader + content.size());
  append_number(frame, magic);
  append_number(frame, static_cast<std::uint32_t>(content.size()));
  frame.insert(frame.end(), content.begin(), content.end());
  return frame;
}

std::string to_text(const ArchiveHeader& header) {
  json root;
  root["format"] = kArchiveFormat;
  root["version"] = kArchiveVersion;
  root["architecture"] = header.architecture;
  root["program"] = header.program;
  root["page"] = kArchivePage;
  root["frame_pages"] = header.frame_pages;
  if (!header.base.empty()) {
    root["base"] = {{"digest", header.base}, {"pages", header.base_pages}};
  }
  return root.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<ArchiveHeader> parse_archive_header(std::string_view text) {
  const auto parsed = parse_ordered_json(text);
  if (!parsed) return fail("its header cannot be read: {}", parsed.error().message());
  const json& root = *parsed;
  try {
    if (!root.is_object() || root.value("format", "") != kArchiveFormat) {
      return fail("it is not an exported snapshot");
    }
    const auto version = root.at("version").get<std::uint64_t>();
    if (version != kArchiveVersion) {
      return fail("it has version {} of the format, this program reads version {}", version,
                  kArchiveVersion);
    }
    auto header = TRY(header_of(root));
    if (to_text(header) != text) return fail("its header is not as this version writes it");
    return header;
  } catch (const json::exception& error) {
    return fail("its header cannot be read: {}", error.what());
  }
}

std::uint64_t ArchiveFile::data() const {
  std::uint64_t pages = 0;
  for (const auto& run : runs) pages += run.count;
  return pages * kArchivePage;
}

std::vector<std::byte> encode_index(const ArchiveIndex& index) {
  IndexRecord record{index.manifest, {}};
  for (const auto& file : index.files) {
    record.files.push_back({file.name, file.size, encode_runs(file.runs)});
  }
  return state::encode(record);
}

Result<ArchiveIndex> decode_index(std::span<const std::byte> bytes, std::uint64_t unique_pages) {
  auto record = state::decode<IndexRecord>(bytes);
  if (!record) return fail("its index cannot be read: {}", record.error().message());
  ArchiveIndex index{std::move(record->manifest), {}};
  std::uint64_t unpacked = 0;
  std::size_t runs_left = kMaxRuns;
  for (const auto& file : record->files) {
    constexpr std::uint64_t kMost = std::uint64_t{1} << 60;
    if (file.size > kMost) return fail("its file '{}' has {} bytes", file.name, file.size);
    auto runs = decode_runs(file.runs, runs_left, (file.size + kArchivePage - 1) / kArchivePage,
                            unique_pages);
    if (!runs) return fail("its file '{}' has {}", file.name, runs.error().message());
    runs_left -= runs->size();
    index.files.push_back({file.name, file.size, std::move(*runs)});
    unpacked += index.files.back().data();
    if (unpacked > kMaxUnpacked) {
      return fail("its files have more than {} bytes", kMaxUnpacked);
    }
  }
  return index;
}

std::vector<std::byte> encode_seek_table(std::span<const SeekEntry> entries) {
  std::vector<std::byte> content;
  content.reserve(entries.size() * kSeekEntry + kSeekFooter);
  for (const auto& entry : entries) {
    append_number(content, entry.stored);
    append_number(content, entry.decoded);
  }
  append_number(content, static_cast<std::uint32_t>(entries.size()));
  content.push_back(std::byte{0});  // the descriptor: no checksums
  append_number(content, kSeekableMagic);
  return skippable_frame(kSeekTableMagic, content);
}

Result<std::size_t> seek_table_size(std::span<const std::byte, kSeekFooter> footer,
                                    std::uint64_t file_size) {
  if (number_at(footer, 5) != kSeekableMagic) {
    return fail("its seek table is missing: it was cut off or altered");
  }
  if (footer[4] != std::byte{0}) return fail("its seek table has an unknown descriptor");
  const std::uint64_t size =
      kSkippableHeader + std::uint64_t{number_at(footer, 0)} * kSeekEntry + kSeekFooter;
  if (size > file_size) return fail("its seek table has {} entries", number_at(footer, 0));
  return size;
}

Result<std::vector<SeekEntry>> decode_seek_table(std::span<const std::byte> frame) {
  std::vector<SeekEntry> entries;
  if (frame.size() < kSkippableHeader + kSeekFooter) return fail("its seek table is cut off");
  const std::size_t count = (frame.size() - kSkippableHeader - kSeekFooter) / kSeekEntry;
  entries.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t at = kSkippableHeader + i * kSeekEntry;
    entries.push_back({number_at(frame, at), number_at(frame, at + 4)});
  }
  if (!std::ranges::equal(encode_seek_table(entries), frame)) {
    return fail("its seek table is not as this version writes it");
  }
  return entries;
}

}  // namespace vmm::snapshot
