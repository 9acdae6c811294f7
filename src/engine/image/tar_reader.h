// TarReader: the entries of a tar archive (ustar, GNU, pax), by libarchive.
//
//   TarReader tar(source);
//   TRY(tar.open());
//   while (TRY(tar.next())) {
//     if (tar.kind() == TarReader::Kind::file) {
//       while (const auto piece = TRY(tar.read())) ...   // holes are left out
//     }
//   }
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/engine/erofs/tree.h"
#include "src/engine/image/byte_source.h"

struct archive_entry;

namespace vmm::engine {

class TarReader {
 public:
  enum class Kind : std::uint8_t { file, directory, symlink, hard_link, device, other };
  struct Piece {
    std::span<const std::byte> bytes;  // until the next call
    std::uint64_t offset = 0;
  };

  explicit TarReader(ByteSource& source) : input_(source) {}

  Result<void> open();
  Result<bool> next();
  Result<std::optional<Piece>> read();
  // All of a small file. Error: it is larger than `limit`.
  Result<std::string> read_all(std::size_t limit);

  Kind kind() const;
  const std::string& name() const { return name_; }  // any bytes
  std::string link_target() const;
  std::uint64_t size() const;  // of a file, its holes too
  // Mode, owner, time, device and extended attributes.
  erofs::Inode attributes() const;

 private:
  ArchiveInput input_;
  ArchiveReader reader_;
  archive_entry* entry_ = nullptr;  // the reader's
  std::string name_;
};

}  // namespace vmm::engine
