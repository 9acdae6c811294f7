#include "src/hypervisor/snapshot/archive.h"

#include <sys/stat.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>

#include "src/hypervisor/snapshot/digest.h"

namespace vmm::snapshot {
namespace {

constexpr std::size_t kMaxHeader = 64u << 10;
constexpr std::size_t kDigestFrame = kSkippableHeader + sizeof(Sha256::Bytes);
constexpr std::size_t kMaxChain = 64;  // archives below one

}  // namespace

bool begins_as_archive(int fd) {
  const std::string text = to_text(ArchiveHeader{});
  // Up to the version: {"format":"vmm-export"
  std::vector<std::byte> head(kSkippableHeader + text.find(','));
  if (!read_exact_at(fd, head, 0) || number_at(head, 0) != kHeaderMagic) return false;
  return std::ranges::equal(std::span(head).subspan(kSkippableHeader),
                            std::as_bytes(std::span(text)).first(text.find(',')));
}

Result<std::unique_ptr<Archive>> Archive::open(const std::string& path) {
  // A pipe of that name would be waited for.
  return open(TRY(open_file(path, O_RDONLY | O_NONBLOCK)), path);
}

Result<std::unique_ptr<Archive>> Archive::open(UniqueFd file, const std::string& path) {
  std::unique_ptr<Archive> archive(new Archive(path));
  archive->file_ = std::move(file);
  if (const auto result = archive->read(); !result) {
    return fail("archive '{}': {}", path, result.error().message());
  }
  return archive;
}

// The header with the version comes first, then the end of the file says where the rest is.
Result<void> Archive::read() {
  struct stat status{};
  if (::fstat(file_.get(), &status) < 0) return fail_errno("cannot examine it");
  if (!S_ISREG(status.st_mode)) return fail("it is not a regular file");
  file_size_ = static_cast<std::uint64_t>(status.st_size);
  TRY(read_header());
  const auto table = TRY(read_seek_table());
  TRY(check_frames(table));
  std::uint64_t at = header_size_;
  for (std::size_t i = 1; i + 2 < table.size(); ++i) {
    offsets_.push_back(at);
    entries_.push_back(table[i]);
    at += table[i].stored;
  }
  TRY(read_index(at, table[table.size() - 2]));
  return {};
}

Result<void> Archive::read_header() {
  std::array<std::byte, kSkippableHeader> head;
  if (file_size_ < head.size()) return fail("it is not an exported snapshot: it is too short");
  TRY(read_exact_at(file_.get(), head, 0));
  const std::uint32_t size = number_at(head, 4);
  if (number_at(head, 0) != kHeaderMagic || size > kMaxHeader) {
    return fail("it is not an exported snapshot");
  }
  if (size > file_size_ - head.size()) return fail("it is cut off in its header");
  std::string text(size, '\0');
  TRY(read_exact_at(file_.get(), std::as_writable_bytes(std::span(text)), head.size()));
  header_ = TRY(parse_archive_header(text));
  header_size_ = head.size() + size;
  return {};
}

Result<std::vector<SeekEntry>> Archive::read_seek_table() {
  std::array<std::byte, kSeekFooter> footer;
  if (file_size_ < header_size_ + footer.size()) return fail("it is cut off behind its header");
  TRY(read_exact_at(file_.get(), footer, file_size_ - footer.size()));
  const std::size_t size = TRY(seek_table_size(footer, file_size_ - header_size_));
  std::vector<std::byte> frame(size);
  TRY(read_exact_at(file_.get(), frame, file_size_ - size));
  auto table = TRY(decode_seek_table(frame));
  std::uint64_t total = size;
  for (const auto& entry : table) total += entry.stored;
  if (total != file_size_) return fail("its seek table is of a file of {} bytes", total);
  return table;
}

// Header, frames of pages, index, digest.
Result<void> Archive::check_frames(std::span<const SeekEntry> table) {
  if (table.size() < 3) return fail("its seek table has {} entries", table.size());
  const auto& digest = table.back();
  if (table.front().stored != header_size_ || table.front().decoded != 0 ||
      digest.stored != kDigestFrame || digest.decoded != 0) {
    return fail("mismatch of its seek table and its frames");
  }
  const auto pages = table.subspan(1, table.size() - 3);
  for (std::size_t i = 0; i < pages.size(); ++i) {
    const std::uint32_t decoded = pages[i].decoded;
    const bool full = decoded == header_.frame_pages * kArchivePage;
    const bool rest = i + 1 == pages.size() && decoded != 0 && decoded % kArchivePage == 0 &&
                      decoded < header_.frame_pages * kArchivePage;
    if (!full && !rest) return fail("its frame {} has {} bytes", i, decoded);
    own_pages_ += decoded / kArchivePage;
  }
  std::uint64_t at = 0;
  for (const auto& entry : table.first(table.size() - 1)) at += entry.stored;
  std::array<std::byte, kDigestFrame> frame;
  TRY(read_exact_at(file_.get(), frame, at));
  const auto bytes = std::span<const std::byte>(frame).subspan(kSkippableHeader);
  if (!std::ranges::equal(skippable_frame(kDigestMagic, bytes), frame)) {
    return fail("its digest is missing");
  }
  digest_ = to_hex(bytes);
  digest_offset_ = at;
  return {};
}

Result<void> Archive::read_index(std::uint64_t offset, const SeekEntry& entry) {
  if (entry.decoded > kMaxIndex) return fail("its index has {} bytes", entry.decoded);
  index_ = TRY(decode_index(TRY(decode(offset, entry)), all_pages()));
  manifest_ = TRY(parse_manifest(index_.manifest));
  if (to_text(manifest_) != index_.manifest) {
    return fail("its manifest has keys that this program does not know");
  }
  if (manifest_.architecture != header_.architecture || manifest_.program != header_.program) {
    return fail("its header is of another snapshot than its manifest");
  }
  if (manifest_.parent) return fail("the snapshot in it has a parent");
  std::vector<std::pair<std::string, std::uint64_t>> wanted = {{std::string(kStateFile), 0}};
  for (const auto& disk : manifest_.disks) {
    if (disk.file.empty()) return fail("disk '{}' is not in it", disk.path);
  }
  for (const auto& file : manifest_.files()) wanted.emplace_back(file.name, file.size);
  wanted.emplace_back(kMemoryFile, manifest_.memory_size());
  if (index_.files.size() != wanted.size()) {
    return fail("it has {} files instead of {}", index_.files.size(), wanted.size());
  }
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const auto& file = index_.files[i];
    const bool fits = i == 0 ? file.size <= kMaxState : file.size == wanted[i].second;
    if (file.name != wanted[i].first || !fits) {
      return fail("its file '{}' of {} bytes is not what its manifest says", file.name, file.size);
    }
  }
  return {};
}

// One frame, which is all of the stored bytes and has the content's size and checksum.
Result<std::vector<std::byte>> Archive::decode(std::uint64_t offset, const SeekEntry& entry) const {
  if (entry.stored > ZSTD_compressBound(entry.decoded)) {
    return fail("a frame at {} has {} bytes for {}", offset, entry.stored, entry.decoded);
  }
  std::vector<std::byte> stored(entry.stored);
  TRY(read_exact_at(file_.get(), stored, offset));
  constexpr std::size_t kDescriptor = 4;
  constexpr unsigned kChecksum = 4;  // RFC 8878, 3.1.1.1.1
  if (stored.size() <= kDescriptor || number_at(stored, 0) != ZSTD_MAGICNUMBER ||
      (std::to_integer<unsigned>(stored[kDescriptor]) & kChecksum) == 0 ||
      ZSTD_findFrameCompressedSize(stored.data(), stored.size()) != stored.size() ||
      ZSTD_getFrameContentSize(stored.data(), stored.size()) != entry.decoded) {
    return fail("mismatch of a frame at {} and its seek table", offset);
  }
  // A block of 128 KiB takes four bytes at least: more is not to be had out of so few.
  if (entry.decoded / (128u << 10) > entry.stored / 4) {
    return fail("a frame at {} has {} bytes in {}", offset, entry.decoded, entry.stored);
  }
  std::vector<std::byte> decoded(entry.decoded);
  const std::size_t size =
      ZSTD_decompress(decoded.data(), decoded.size(), stored.data(), stored.size());
  if (ZSTD_isError(size) != 0) {
    return fail("a frame at {} cannot be decoded: {}", offset, ZSTD_getErrorName(size));
  }
  if (size != decoded.size()) return fail("a frame at {} has {} bytes", offset, size);
  return decoded;
}

Result<std::vector<std::byte>> Archive::read_frame(std::size_t frame) const {
  auto pages = decode(offsets_[frame], entries_[frame]);
  if (!pages) return fail("archive '{}': {}", path_, pages.error().message());
  return pages;
}

Result<void> Archive::check_digest(Progress& progress) const {
  progress.begin("checking the archive", digest_offset_);
  Sha256 hash;
  std::vector<std::byte> buffer(1u << 20);
  for (std::uint64_t at = 0; at < digest_offset_;) {
    const auto part =
        std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), digest_offset_ - at));
    TRY(read_exact_at(file_.get(), part, at));
    hash.update(part);
    at += part.size();
    TRY(progress.advance(part.size()));
  }
  if (to_hex(hash.finish()) != digest_) {
    return fail("archive '{}': digest mismatch: it was altered", path_);
  }
  return {};
}

Result<ArchiveChain> open_chain(const std::string& digest, std::span<const std::string> paths,
                                Progress& progress) {
  ArchiveChain given, chain;
  for (const auto& path : paths) given.push_back(TRY(Archive::open(path)));
  std::string wanted = digest;
  std::uint64_t pages = 0;
  while (!wanted.empty()) {
    const auto found = std::ranges::find_if(
        given, [&](const auto& archive) { return archive && archive->digest() == wanted; });
    if (found == given.end()) {
      return fail("the archive with the digest {} is needed, too: --base FILE gives it", wanted);
    }
    if (!chain.empty() && (*found)->all_pages() != pages) {
      return fail("archive '{}' has {} pages instead of {}", (*found)->path(),
                  (*found)->all_pages(), pages);
    }
    TRY((*found)->check_digest(progress));
    wanted = (*found)->header().base;
    pages = (*found)->header().base_pages;
    chain.insert(chain.begin(), std::move(*found));
    if (chain.size() > kMaxChain) return fail("more than {} archives", kMaxChain);
  }
  for (const auto& archive : given) {
    if (archive) {
      return fail("archive '{}' (digest {}) is not what this one builds on", archive->path(),
                  archive->digest());
    }
  }
  return chain;
}

Result<ArchiveChain> chain_of(std::unique_ptr<Archive> archive, std::span<const std::string> bases,
                              Progress& progress) {
  auto chain = open_chain(archive->header().base, bases, progress);
  if (!chain) return fail("archive '{}': {}", archive->path(), chain.error().message());
  const std::uint64_t pages = chain->empty() ? 0 : chain->back()->all_pages();
  if (archive->header().base_pages != pages) {
    return fail("archive '{}': its base has {} pages instead of {}", archive->path(), pages,
                archive->header().base_pages);
  }
  chain->push_back(std::move(archive));
  return chain;
}

Result<std::span<const std::byte>> PageStore::read(std::uint64_t first, std::uint64_t count) {
  std::size_t at = 0;
  while (at < chain_.size() && first >= chain_[at]->all_pages()) ++at;
  if (at == chain_.size()) return fail("there is no page {}", first);
  const Archive& archive = *chain_[at];
  const std::uint64_t own = first - archive.header().base_pages;
  const std::uint64_t per_frame = archive.header().frame_pages;
  const std::uint64_t frame = own / per_frame;
  const std::uint64_t key = frame * (kMaxChain + 1) + at;
  auto found = by_key_.find(key);
  if (found == by_key_.end()) {
    frames_.push_front({key, TRY(archive.read_frame(frame))});
    kept_ += frames_.front().pages.size();
    found = by_key_.emplace(key, frames_.begin()).first;
    while (kept_ > most_kept_ && frames_.size() > 1) {
      kept_ -= frames_.back().pages.size();
      by_key_.erase(frames_.back().key);
      frames_.pop_back();
    }
  } else {
    frames_.splice(frames_.begin(), frames_, found->second);
  }
  const auto pages = std::span<const std::byte>(frames_.front().pages);
  const std::uint64_t offset = own % per_frame * kArchivePage;
  return pages.subspan(offset, std::min(count * kArchivePage, pages.size() - offset));
}

}  // namespace vmm::snapshot
