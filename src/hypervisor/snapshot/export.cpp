#include "src/hypervisor/snapshot/export.h"

#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <unordered_map>

#include "src/base/new_file.h"
#include "src/base/thread.h"
#include "src/hypervisor/snapshot/archive.h"
#include "src/hypervisor/snapshot/chunks.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/disk_file.h"
#include "src/hypervisor/snapshot/merge.h"

namespace vmm::snapshot {
namespace {

// Part of the format's promise that the same snapshot makes the same bytes. Measured: FORMAT.md.
constexpr std::uint32_t kFramePages = 128;
constexpr int kLevel = 6;
// A machine's memory may hold anything.
constexpr mode_t kMode = 0600;

struct ContextDeleter {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
};

// The frames of the file, one behind the other, with the digest and the seek table of them. As many
// are encoded at a time as there are processors, while the caller reads and hashes what comes next;
// they are written in the order in which they were given.
class FrameWriter {
 public:
  static Result<FrameWriter> create(const std::string& path) {
    FrameWriter writer;
    writer.file_.emplace(TRY(NewFile::create(path, kMode)));
    writer.slots_.resize(std::clamp(std::thread::hardware_concurrency(), 1u, kMostAtATime));
    for (auto& slot : writer.slots_) {
      slot.context.reset(ZSTD_createCCtx());
      auto* context = slot.context.get();
      if (context == nullptr) return fail("zstd: out of memory");
      if (ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, kLevel)) != 0 ||
          ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1)) != 0) {
        return fail("zstd does not take its parameters");
      }
    }
    return writer;
  }

  Result<void> skippable(std::uint32_t magic, std::span<const std::byte> content) {
    TRY(write_encoded());
    return append(skippable_frame(magic, content), 0);
  }
  // The content is copied.
  Result<void> encoded(std::span<const std::byte> content) {
    if (given_ - written_ == slots_.size()) TRY(write_oldest());
    Slot& slot = slots_[given_++ % slots_.size()];
    slot.content.assign(content.begin(), content.end());
    slot.frame.resize(ZSTD_compressBound(content.size()));
    const auto encode = [&slot]() -> Result<std::size_t> {
      const std::size_t size =
          ZSTD_compress2(slot.context.get(), slot.frame.data(), slot.frame.size(),
                         slot.content.data(), slot.content.size());
      if (ZSTD_isError(size) != 0) return fail("zstd: {}", ZSTD_getErrorName(size));
      return size;
    };
    slot.size.emplace(TRY(Background<std::size_t>::start("export", encode)));
    return {};
  }
  // Digest and seek table; returns the digest.
  Result<std::string> finish() {
    TRY(write_encoded());
    const auto digest = hash_.finish();
    TRY(skippable(kDigestMagic, digest));
    const auto table = encode_seek_table(table_);
    TRY(write(table));
    bytes_ += table.size();
    TRY(file_->publish());
    return to_hex(digest);
  }
  std::uint64_t bytes() const { return bytes_; }

 private:
  static constexpr unsigned kMostAtATime = 16;
  struct Slot {
    std::unique_ptr<ZSTD_CCtx, ContextDeleter> context;
    std::vector<std::byte> content;
    std::vector<std::byte> frame;
    std::optional<Background<std::size_t>> size;  // last: what it uses outlives it
  };

  Result<void> write_encoded() {
    while (written_ < given_) TRY(write_oldest());
    return {};
  }
  Result<void> write_oldest() {
    Slot& slot = slots_[written_++ % slots_.size()];
    const std::size_t size = TRY(slot.size->get());
    return append(std::span(slot.frame).first(size), slot.content.size());
  }
  Result<void> append(std::span<const std::byte> frame, std::size_t decoded) {
    hash_.update(frame);
    bytes_ += frame.size();
    table_.push_back(
        {static_cast<std::uint32_t>(frame.size()), static_cast<std::uint32_t>(decoded)});
    return write(frame);
  }
  Result<void> write(std::span<const std::byte> bytes) const {
    if (const auto written = write_all(file_->fd(), bytes); !written) {
      return fail("cannot write '{}': {}", file_->partial(), written.error().message());
    }
    return {};
  }
  std::optional<NewFile> file_;
  std::vector<Slot> slots_;  // a ring: those from `written_` up to `given_` are in use
  std::uint64_t given_ = 0;
  std::uint64_t written_ = 0;
  std::vector<SeekEntry> table_;
  Sha256 hash_;
  std::uint64_t bytes_ = 0;
};

// Pages by their SHA-256, each under the number of its first appearance.
class UniquePages {
 public:
  struct Found {
    std::uint64_t number;
    bool fresh;
  };
  Found add(std::span<const std::byte> page) {
    Sha256 hash;
    hash.update(page);
    const auto [entry, fresh] = numbers_.emplace(hash.finish(), next_);
    if (fresh) ++next_;
    return {entry->second, fresh};
  }
  // Of a base: each has a number of its own, whether it is there already or not.
  void add_known(std::span<const std::byte> page) {
    Sha256 hash;
    hash.update(page);
    numbers_.emplace(hash.finish(), next_++);
  }
  std::uint64_t size() const { return next_; }

 private:
  struct Hash {
    std::size_t operator()(const Sha256::Bytes& digest) const {
      std::size_t value = 0;
      std::memcpy(&value, digest.data(), sizeof value);
      return value;
    }
  };
  std::unordered_map<Sha256::Bytes, std::uint64_t, Hash> numbers_;
  std::uint64_t next_ = 0;
};

class Exporter {
 public:
  Exporter(const Reader& reader, FrameWriter& out, Progress& progress)
      : reader_(reader), out_(out), progress_(progress) {}

  Result<Exported> run(const ExportBase& base) {
    manifest_ = reader_.manifest();
    manifest_.parent.reset();
    TRY(begin(base));
    progress_.begin("exporting", TRY(size_of_work()));
    TRY(add_state());
    for (auto& file : manifest_.boot) TRY(add_boot(file));
    // Disks before memory: its page cache is pieces of them, which they have in better order.
    for (auto& disk : manifest_.disks) TRY(add_disk(disk));
    TRY(add_memory());
    if (!frame_.empty()) TRY(out_.encoded(frame_));
    index_.manifest = to_text(manifest_);
    const auto index = encode_index(index_);
    if (index.size() > kMaxIndex) {
      return fail("its pages lie in too many pieces: an index of {} bytes", index.size());
    }
    TRY(decode_index(index, pages_.size()));
    TRY(out_.encoded(index));
    made_.snapshot = TRY(digest_in(index_.manifest));
    made_.stored = pages_.size() - base_pages_;
    made_.digest = TRY(out_.finish());
    made_.bytes = out_.bytes();
    return made_;
  }

 private:
  Result<std::uint64_t> size_of_work() {
    std::uint64_t total = 0;
    for (const auto& extent : TRY(reader_.data_extents())) total += extent.length;
    for (const auto& file : manifest_.boot) total += file.size;
    for (const auto& disk : manifest_.disks) total += TRY(disk_data(reader_, disk, progress_));
    return total;
  }

  Result<void> begin(const ExportBase& base) {
    ArchiveHeader header{.architecture = manifest_.architecture,
                         .program = manifest_.program,
                         .frame_pages = kFramePages};
    if (!base.since.empty()) {
      auto top = TRY(Archive::open(base.since));
      TRY(top->check_digest(progress_));
      header.base = top->digest();
      header.base_pages = base_pages_ = top->all_pages();
      const auto chain = TRY(chain_of(std::move(top), base.bases, progress_));
      progress_.begin("reading the base", base_pages_ * kArchivePage);
      for (const auto& archive : chain) {
        for (std::size_t i = 0; i < archive->frames(); ++i) {
          const auto pages = TRY(archive->read_frame(i));
          for (std::size_t at = 0; at < pages.size(); at += kArchivePage) {
            pages_.add_known(std::span(pages).subspan(at, kArchivePage));
          }
          TRY(progress_.advance(pages.size()));
        }
      }
    }
    const std::string text = to_text(header);
    return out_.skippable(kHeaderMagic, std::as_bytes(std::span(text.data(), text.size())));
  }

  Result<void> add_state() {
    const auto state = TRY(complete_state(reader_));
    if (state.size() > kMaxState) return fail("its states have {} bytes", state.size());
    manifest_.state_digest = digest_of(state);
    index_.files.push_back({std::string(kStateFile), state.size(), {}});
    return add_pages(0, state);
  }

  // The chunks that `for_each` gives, of the file that was named last; returns their digest.
  template <typename ForEach>
  Result<std::string> add_chunks(ForEach for_each) {
    SparseDigest digest;
    const auto add = [&](std::uint64_t number, auto chunk) {
      digest.add(number, chunk);
      return add_pages(number * kChunk, chunk);
    };
    TRY(for_each(add));
    return digest.finish();
  }

  Result<void> add_boot(BootFile& file) {
    const auto& boot = reader_.boot();
    const int fd = (file.name == kKernelFile ? boot.kernel : boot.initrd).get();
    file.of_parent = false;
    index_.files.push_back({file.name, file.size, {}});
    const auto found =
        TRY(add_chunks([&](auto add) { return for_each_chunk(fd, file.size, add, progress_); }));
    if (found != file.digest) {
      return fail("digest mismatch of its file '{}': it was altered", file.name);
    }
    return {};
  }

  Result<void> add_memory() {
    const auto memory = TRY(reader_.map_memory());
    const auto extents = TRY(reader_.data_extents());
    index_.files.push_back({std::string(kMemoryFile), manifest_.memory_size(), {}});
    auto found =
        TRY(add_chunks([&](auto add) { return for_each_chunk(*memory, extents, add, progress_); }));
    if (reader_.depth() == 1 && found != manifest_.memory_digest) {
      return fail("digest mismatch of its file '{}': it was altered", kMemoryFile);
    }
    manifest_.memory_digest = std::move(found);
    return {};
  }

  Result<void> add_disk(DiskEntry& disk) {
    const DiskEntry stored = disk;
    const auto chain = TRY(open_disk_file(reader_.disk_path(stored), stored));
    if (chain->size() != disk.size) {
      return fail("disk '{}' has {} bytes in a file of {}: only a raw image can be exported",
                  disk.path, disk.size, chain->size());
    }
    if (stored.file.empty() || stored.layer) {
      disk = {.device = stored.device,
              .file = stored.device + ".img",
              .path = stored.path,
              .size = stored.size};
    }
    index_.files.push_back({disk.file, disk.size, {}});
    auto found = TRY(add_chunks([&](auto add) { return for_each_chunk(*chain, add, progress_); }));
    if (!disk.digest.empty() && found != disk.digest) {
      return fail("digest mismatch of its file '{}': it was altered", disk.file);
    }
    disk.digest = std::move(found);
    return {};
  }

  // Bytes at a multiple of the page size; only a file's last page may be shorter.
  Result<void> add_pages(std::uint64_t offset, std::span<const std::byte> bytes) {
    std::array<std::byte, kArchivePage> padded{};
    for (std::size_t at = 0; at < bytes.size(); at += kArchivePage) {
      auto page = bytes.subspan(at, std::min<std::size_t>(kArchivePage, bytes.size() - at));
      if (is_zero(page)) continue;
      if (page.size() < kArchivePage) {
        std::ranges::copy(page, padded.begin());
        page = padded;
      }
      ++made_.pages;
      const auto [number, fresh] = pages_.add(page);
      append_run(index_.files.back().runs, (offset + at) / kArchivePage, number);
      if (!fresh) continue;
      frame_.insert(frame_.end(), page.begin(), page.end());
      if (frame_.size() == std::size_t{kFramePages} * kArchivePage) {
        TRY(out_.encoded(frame_));
        frame_.clear();
      }
    }
    return {};
  }

  static void append_run(std::vector<PageRun>& runs, std::uint64_t page, std::uint64_t unique) {
    if (!runs.empty()) {
      auto& last = runs.back();
      if (last.page + last.count == page && last.unique + last.count == unique) {
        ++last.count;
        return;
      }
    }
    runs.push_back({page, 1, unique});
  }

  const Reader& reader_;
  FrameWriter& out_;
  Progress& progress_;
  Manifest manifest_;
  ArchiveIndex index_;
  UniquePages pages_;
  std::uint64_t base_pages_ = 0;
  std::vector<std::byte> frame_;
  Exported made_;
};

}  // namespace

Result<Exported> export_snapshot(const Reader& reader, const std::string& file,
                                 const ExportBase& base, Progress& progress) {
  auto out = TRY(FrameWriter::create(file));
  return Exporter(reader, out, progress).run(base);
}

}  // namespace vmm::snapshot
