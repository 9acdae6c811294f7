// ContentStore: files that are named by a digest. A file has its name only once it is whole and
// on the disk, so that any process may be killed at any instant; files of equal names are equal.
//
//   auto blob = TRY(BlobWriter::create(store));
//   TRY(blob.write(bytes));
//   const auto written = TRY(blob.finish());      // digest and size are known
//   TRY(store.publish(std::move(written.file), Content::blob, written.digest));
//   TRY(store.sync_names());                      // before it is named by a row
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/unique_fd.h"
#include "src/engine/store/digest.h"

namespace vmm::engine {

enum class Content : std::uint8_t {
  blob,    // what a registry has: manifests, configurations, layers as they came
  layer,   // the EROFS image of a layer, by the digest of its uncompressed archive (diff id)
  merged,  // the EROFS metadata of an image, by the image's id
};

// A file below the store's tmp/, which goes with the object until it is published.
class TemporaryFile {
 public:
  TemporaryFile() = default;
  TemporaryFile(TemporaryFile&& other) noexcept;
  TemporaryFile& operator=(TemporaryFile&& other) noexcept;
  ~TemporaryFile();

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  // Keeps the file, but no descriptor: there may be thousands.
  void close() { fd_.reset(); }
  Result<UniqueFd> reopen() const;

 private:
  friend class ContentStore;
  TemporaryFile(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  std::string path_;  // empty: published, or moved from
  UniqueFd fd_;
};

class ContentStore {
 public:
  // Makes the directories below `root` that are missing.
  static Result<ContentStore> open(std::string root);

  std::string path(Content kind, const Digest& digest) const;
  bool has(Content kind, const Digest& digest) const;
  Result<UniqueFd> open_content(Content kind, const Digest& digest) const;
  // Of a small blob, such as a manifest. Error: it is larger than `limit`, or damaged.
  Result<std::string> read_blob(const Digest& digest, std::size_t limit) const;

  Result<TemporaryFile> temporary() const;
  // Syncs the file and gives it its name.
  Result<void> publish(TemporaryFile file, Content kind, const Digest& digest) const;
  // Makes all names durable, also of what another process has published: before a row says so.
  Result<void> sync_names() const;
  Result<Digest> add_blob(std::string_view content) const;

  Result<std::vector<Digest>> list(Content kind) const;
  // The bytes that it took on the disk; 0 if it was not there.
  Result<std::uint64_t> remove(Content kind, const Digest& digest) const;
  // What killed processes left. No other process may be using the store.
  Result<void> remove_temporary_files() const;

 private:
  explicit ContentStore(std::string root) : root_(std::move(root)) {}
  std::string directory(Content kind) const;

  std::string root_;
};

// A blob that is being written: its digest is of what was written.
class BlobWriter {
 public:
  struct Written {
    TemporaryFile file;
    Digest digest;
    std::uint64_t size = 0;
  };

  static Result<BlobWriter> create(const ContentStore& store);
  Result<void> write(std::span<const std::byte> bytes);
  std::uint64_t size() const { return size_; }
  Written finish();

 private:
  explicit BlobWriter(TemporaryFile file) : file_(std::move(file)) {}

  TemporaryFile file_;
  Sha256 hash_;
  std::uint64_t size_ = 0;
};

}  // namespace vmm::engine
