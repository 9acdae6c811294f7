// Archive: a snapshot in one file, opened for reading (FORMAT.md, "An archive").
//
//   const auto archive = TRY(Archive::open("seeded.vmm"));   // header, index, manifest: checked
//   TRY(archive->check_digest());                            // every byte
//   const auto chain = TRY(chain_of(std::move(archive), bases));   // with what it builds on
//   PageStore pages(chain);
//   const auto bytes = TRY(pages.read(number, most));        // unique pages, decoded
#pragma once

#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/snapshot/archive_format.h"
#include "src/hypervisor/snapshot/manifest.h"

namespace vmm::snapshot {

// Whether a file begins as an archive does; the rest may be missing.
bool begins_as_archive(int fd);

class Archive {
 public:
  // Reads what is small. Errors name the file, and say what does not fit.
  static Result<std::unique_ptr<Archive>> open(const std::string& path);
  static Result<std::unique_ptr<Archive>> open(UniqueFd file, const std::string& path);

  const std::string& path() const { return path_; }
  const ArchiveHeader& header() const { return header_; }
  const ArchiveIndex& index() const { return index_; }
  const Manifest& manifest() const { return manifest_; }
  // As the file says; check_digest() compares.
  const std::string& digest() const { return digest_; }
  std::uint64_t file_size() const { return file_size_; }
  // Of its own, and of it with all that it builds on.
  std::uint64_t own_pages() const { return own_pages_; }
  std::uint64_t all_pages() const { return header_.base_pages + own_pages_; }
  std::size_t frames() const { return offsets_.size(); }

  Result<void> check_digest(Progress& progress = Progress::none()) const;
  // The pages of one frame.
  Result<std::vector<std::byte>> read_frame(std::size_t frame) const;

 private:
  explicit Archive(std::string path) : path_(std::move(path)) {}
  Result<void> read();
  Result<void> read_header();
  Result<std::vector<SeekEntry>> read_seek_table();
  Result<void> check_frames(std::span<const SeekEntry> table);
  Result<void> read_index(std::uint64_t offset, const SeekEntry& entry);
  Result<std::vector<std::byte>> decode(std::uint64_t offset, const SeekEntry& entry) const;

  std::string path_;
  UniqueFd file_;
  std::uint64_t file_size_ = 0;
  std::uint64_t header_size_ = 0;
  std::uint64_t digest_offset_ = 0;
  ArchiveHeader header_;
  ArchiveIndex index_;
  Manifest manifest_;
  std::string digest_;
  std::uint64_t own_pages_ = 0;
  std::vector<SeekEntry> entries_;      // of the frames of pages
  std::vector<std::uint64_t> offsets_;  // of the same
};

// An archive and those that it builds on, the lowest first.
using ArchiveChain = std::vector<std::unique_ptr<Archive>>;

// Finds what `digest` names and all below it among the files `paths`, in any order. Whole digests
// are compared. Error: one is missing (named), or there is one that is not needed.
Result<ArchiveChain> open_chain(const std::string& digest, std::span<const std::string> paths,
                                Progress& progress = Progress::none());
// The chain that ends in this archive, which was checked already.
Result<ArchiveChain> chain_of(std::unique_ptr<Archive> archive, std::span<const std::string> bases,
                              Progress& progress = Progress::none());

// The unique pages of a chain, by their numbers. Keeps the frames that were used last.
class PageStore {
 public:
  explicit PageStore(const ArchiveChain& chain, std::size_t kept = 256u << 20)
      : chain_(chain), most_kept_(kept) {}
  // Pages from `first` on, at least one, at most `count`; valid until the next call.
  Result<std::span<const std::byte>> read(std::uint64_t first, std::uint64_t count);

 private:
  struct Frame {
    std::uint64_t key;
    std::vector<std::byte> pages;
  };
  const ArchiveChain& chain_;
  const std::size_t most_kept_;  // bytes
  std::list<Frame> frames_;      // the one that was used last is in front
  std::unordered_map<std::uint64_t, std::list<Frame>::iterator> by_key_;
  std::size_t kept_ = 0;
};

}  // namespace vmm::snapshot
