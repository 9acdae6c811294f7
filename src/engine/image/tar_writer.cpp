#include "src/engine/image/tar_writer.h"

#include <archive.h>
#include <archive_entry.h>

#include "src/engine/image/archive_names.h"

namespace vmm::engine {

void TarWriter::Free::operator()(archive* writer) const { (void)archive_write_free(writer); }

std::unexpected<Error> TarWriter::failed() const {
  const char* text = archive_error_string(writer_.get());
  return fail("cannot write the archive: {}", text != nullptr ? text : "unknown error");
}

Result<void> TarWriter::open() {
  writer_.reset(archive_write_new());
  archive_write_set_format_pax(writer_.get());  // times keep their nanoseconds
  // A pipe or a device gets no more than the archive.
  archive_write_set_bytes_in_last_block(writer_.get(), 1);
  if (archive_write_open_fd(writer_.get(), descriptor_) != ARCHIVE_OK) return failed();
  return {};
}

Result<void> TarWriter::add(const erofs::Inode& inode, const Names& names,
                            std::string_view content) {
  const std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(),
                                                                            &archive_entry_free);
  archive_entry_set_pathname(entry.get(), names.name.c_str());
  archive_entry_set_mode(entry.get(), inode.mode);
  archive_entry_set_uid(entry.get(), inode.uid);
  archive_entry_set_gid(entry.get(), inode.gid);
  archive_entry_set_mtime(entry.get(), inode.mtime, static_cast<long>(inode.mtime_ns));
  archive_entry_set_size(entry.get(), S_ISREG(inode.mode) && names.hard_link.empty()
                                          ? static_cast<la_int64_t>(inode.size)
                                          : 0);
  archive_entry_set_rdev(entry.get(), inode.rdev);
  if (!names.hard_link.empty()) archive_entry_set_hardlink(entry.get(), names.hard_link.c_str());
  if (inode.is_symlink()) archive_entry_set_symlink(entry.get(), inode.target.c_str());
  for (const auto& xattr : inode.xattrs) {
    archive_entry_xattr_add_entry(entry.get(), xattr.name.c_str(), xattr.value.data(),
                                  xattr.value.size());
  }
  // A warning is of a name that is not UTF-8: the archive has its bytes, and says that they are
  // not.
  const ArchiveNames utf8(ArchiveNames::As::utf8);
  const int code = archive_write_header(writer_.get(), entry.get());
  if (code != ARCHIVE_OK && code != ARCHIVE_WARN) return failed();
  return write(std::as_bytes(std::span(content)));
}

Result<void> TarWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto n = archive_write_data(writer_.get(), bytes.data(), bytes.size());
    if (n <= 0) return failed();
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

std::uint64_t TarWriter::written() const {
  return static_cast<std::uint64_t>(archive_filter_bytes(writer_.get(), 0));
}

Result<void> TarWriter::finish() {
  if (archive_write_close(writer_.get()) != ARCHIVE_OK) return failed();
  return {};
}

}  // namespace vmm::engine
