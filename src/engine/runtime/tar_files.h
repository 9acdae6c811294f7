// A stream of files (protocol/files.h) as a tar archive, and the other way.
#pragma once

#include "src/engine/image/byte_source.h"
#include "src/engine/image/tar_writer.h"
#include "src/files/packer.h"

namespace vmm::engine {

// Writes what a machine says. Its names cannot lead out of where the archive is unpacked, and
// begin with `only` unless that is ""; holes are written as zeros. Once the archive has more than
// `limit` bytes, nothing is added: one entry's header may be over it.
class TarOfFiles {
 public:
  TarOfFiles(int fd, std::string only, std::uint64_t limit = UINT64_MAX)
      : tar_(fd), only_(std::move(only)), limit_(limit) {}

  Result<void> open() { return tar_.open(); }
  Result<void> take(const protocol::agent::Message& message);
  Result<void> finish();

 private:
  Result<void> add(const protocol::files::Entry& entry);
  Result<void> write(const protocol::files::Piece& piece);
  Result<void> fill_to(std::uint64_t offset);
  Result<void> check_room(std::uint64_t size) const;
  Result<std::string> check(const std::string& name) const;

  TarWriter tar_;
  const std::string only_;
  const std::uint64_t limit_;
  std::string name_;  // of the file whose pieces come
  std::uint64_t size_ = 0, written_ = 0;
};

// The entries of an archive, compressed or not, with the stream's end.
Result<void> send_archive(ByteSource& archive, const files::Send& send);

}  // namespace vmm::engine
