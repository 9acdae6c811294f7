#include "src/engine/image/tar_reader.h"

#include <archive.h>
#include <archive_entry.h>

#include "src/engine/image/archive_names.h"

namespace vmm::engine {

Result<void> TarReader::open() {
  reader_.reset(archive_read_new());
  archive_read_support_format_tar(reader_.get());
  archive_read_support_format_empty(reader_.get());
  return input_.open(reader_.get());
}

Result<bool> TarReader::next() {
  const ArchiveNames names(ArchiveNames::As::bytes);
  const int code = archive_read_next_header(reader_.get(), &entry_);
  if (code == ARCHIVE_EOF) return false;
  // A warning is of a name outside ASCII, which is not converted; or of a part that is left out,
  // such as an attribute of another system.
  if (code != ARCHIVE_OK && code != ARCHIVE_WARN) {
    return input_.failed(reader_.get(), "not a valid tar archive");
  }
  const char* name = archive_entry_pathname(entry_);
  if (name == nullptr) return fail("not a valid tar archive: a file has no name");
  name_ = name;
  return true;
}

Result<std::optional<TarReader::Piece>> TarReader::read() {
  const void* buffer = nullptr;
  std::size_t size = 0;
  la_int64_t offset = 0;
  const int code = archive_read_data_block(reader_.get(), &buffer, &size, &offset);
  if (code == ARCHIVE_EOF) return std::nullopt;
  if (code != ARCHIVE_OK || offset < 0) {
    return input_.failed(reader_.get(), fmt::format("cannot read '{}'", name_));
  }
  return Piece{std::span(static_cast<const std::byte*>(buffer), size),
               static_cast<std::uint64_t>(offset)};
}

Result<std::string> TarReader::read_all(std::size_t limit) {
  std::string text;
  while (const auto piece = TRY(read())) {
    if (piece->offset != text.size() || piece->bytes.size() > limit - text.size()) {
      return fail("'{}' is larger than {} bytes", name_, limit);
    }
    text.append(reinterpret_cast<const char*>(piece->bytes.data()), piece->bytes.size());
  }
  return text;
}

TarReader::Kind TarReader::kind() const {
  if (archive_entry_hardlink(entry_) != nullptr) return Kind::hard_link;
  switch (archive_entry_filetype(entry_)) {
    case AE_IFREG:
      return Kind::file;
    case AE_IFDIR:
      return Kind::directory;
    case AE_IFLNK:
      return Kind::symlink;
    case AE_IFCHR:
    case AE_IFBLK:
    case AE_IFIFO:
      return Kind::device;
    default:
      return Kind::other;
  }
}

std::string TarReader::link_target() const {
  const char* target = archive_entry_hardlink(entry_);
  if (target == nullptr) target = archive_entry_symlink(entry_);
  return target != nullptr ? target : "";
}

std::uint64_t TarReader::size() const {
  const auto size = archive_entry_size(entry_);
  return size > 0 ? static_cast<std::uint64_t>(size) : 0;
}

erofs::Inode TarReader::attributes() const {
  erofs::Inode inode;
  inode.mode = archive_entry_mode(entry_);
  inode.uid = static_cast<std::uint32_t>(archive_entry_uid(entry_));
  inode.gid = static_cast<std::uint32_t>(archive_entry_gid(entry_));
  inode.mtime = archive_entry_mtime(entry_);
  inode.mtime_ns = static_cast<std::uint32_t>(archive_entry_mtime_nsec(entry_));
  inode.rdev = erofs::encode_device(static_cast<std::uint32_t>(archive_entry_rdevmajor(entry_)),
                                    static_cast<std::uint32_t>(archive_entry_rdevminor(entry_)));
  archive_entry_xattr_reset(entry_);
  const char* name = nullptr;
  const void* value = nullptr;
  std::size_t size = 0;
  while (archive_entry_xattr_next(entry_, &name, &value, &size) == ARCHIVE_OK) {
    // An archive may have it twice, in two notations.
    inode.set_xattr(name, std::string(static_cast<const char*>(value), size));
  }
  return inode;
}

}  // namespace vmm::engine
