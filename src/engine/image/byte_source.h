// ByteSource: bytes that are read once, from first to last.
//
//   FileSource file(fd);                             // a layer as it came
//   auto plain = TRY(Decompressor::create(file));    // gzip, zstd, xz, bzip2, or as it is
//   HashingSource hashed(*plain);                    // its diff id, once all has passed
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/engine/store/digest.h"

struct archive;

namespace vmm::engine {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // As many as there are, at most as many as fit; 0 is the end.
  virtual Result<std::size_t> read(std::span<std::byte> buffer) = 0;
};

// Of a descriptor that somebody else owns, from its position on.
class FileSource final : public ByteSource {
 public:
  explicit FileSource(int fd) : descriptor_(fd) {}
  Result<std::size_t> read(std::span<std::byte> buffer) override;

 private:
  int descriptor_;
};

class HashingSource final : public ByteSource {
 public:
  // Error of a read that passes `limit`.
  HashingSource(ByteSource& source, std::uint64_t limit) : source_(source), limit_(limit) {}
  Result<std::size_t> read(std::span<std::byte> buffer) override;
  // Reads what is left. Once.
  Result<Digest> finish();

 private:
  ByteSource& source_;
  std::uint64_t limit_;
  std::uint64_t size_ = 0;
  Sha256 hash_;
};

// What libarchive reads from a source, and the source's error rather than its own.
class ArchiveInput {
 public:
  explicit ArchiveInput(ByteSource& source) : source_(source), buffer_(kBufferSize) {}
  ArchiveInput(const ArchiveInput&) = delete;

  Result<void> open(archive* reader);
  std::unexpected<Error> failed(archive* reader, std::string_view what) const;

 private:
  static constexpr std::size_t kBufferSize = 128u << 10;
  static ssize_t read(archive* reader, void* self, const void** buffer);

  ByteSource& source_;
  std::vector<std::byte> buffer_;
  std::string error_;
};

struct FreeArchive {
  void operator()(archive* reader) const;
};
using ArchiveReader = std::unique_ptr<archive, FreeArchive>;

class Decompressor final : public ByteSource {
 public:
  static Result<std::unique_ptr<Decompressor>> create(ByteSource& source);
  Result<std::size_t> read(std::span<std::byte> buffer) override;
  bool was_compressed() const { return was_compressed_; }

 private:
  explicit Decompressor(ByteSource& source) : input_(source) {}

  ArchiveInput input_;
  ArchiveReader reader_;
  bool is_empty_ = false;
  bool was_compressed_ = false;
};

}  // namespace vmm::engine
