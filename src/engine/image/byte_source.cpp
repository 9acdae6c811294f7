#include "src/engine/image/byte_source.h"

#include <archive.h>
#include <archive_entry.h>
#include <unistd.h>

#include <cerrno>

namespace vmm::engine {

Result<std::size_t> FileSource::read(std::span<std::byte> buffer) {
  while (true) {
    const ssize_t n = ::read(descriptor_, buffer.data(), buffer.size());
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno != EINTR) return fail_errno("cannot read the archive");
  }
}

Result<std::size_t> HashingSource::read(std::span<std::byte> buffer) {
  const auto n = TRY(source_.read(buffer));
  size_ += n;
  if (size_ > limit_) return fail("it unpacks to more than the {} bytes that are free", limit_);
  hash_.update(buffer.first(n));
  return n;
}

Result<Digest> HashingSource::finish() {
  std::vector<std::byte> rest(64u << 10);
  while (TRY(read(rest)) > 0) {
  }
  return hash_.finish();
}

void FreeArchive::operator()(archive* reader) const { (void)archive_read_free(reader); }

ssize_t ArchiveInput::read(archive* reader, void* self, const void** buffer) {
  auto& input = *static_cast<ArchiveInput*>(self);
  const auto n = input.source_.read(input.buffer_);
  if (!n) {
    input.error_ = n.error().message();
    archive_set_error(reader, EIO, "%s", input.error_.c_str());
    return -1;
  }
  *buffer = input.buffer_.data();
  return static_cast<ssize_t>(*n);
}

Result<void> ArchiveInput::open(archive* reader) {
  if (archive_read_open(reader, this, nullptr, &ArchiveInput::read, nullptr) != ARCHIVE_OK) {
    return failed(reader, "cannot read the archive");
  }
  return {};
}

std::unexpected<Error> ArchiveInput::failed(archive* reader, std::string_view what) const {
  if (!error_.empty()) return fail("{}", error_);
  const char* text = archive_error_string(reader);
  return fail("{}: {}", what, text != nullptr ? text : "unknown error");
}

Result<std::unique_ptr<Decompressor>> Decompressor::create(ByteSource& source) {
  std::unique_ptr<Decompressor> result(new Decompressor(source));
  result->reader_.reset(archive_read_new());
  auto* const reader = result->reader_.get();
  archive_read_support_filter_gzip(reader);
  archive_read_support_filter_zstd(reader);
  archive_read_support_filter_xz(reader);
  archive_read_support_filter_bzip2(reader);
  archive_read_support_format_raw(reader);
  archive_read_support_format_empty(reader);
  TRY(result->input_.open(reader));
  archive_entry* entry = nullptr;
  const int code = archive_read_next_header(reader, &entry);
  result->is_empty_ = code == ARCHIVE_EOF;
  if (code != ARCHIVE_OK && !result->is_empty_) {
    return result->input_.failed(reader, "cannot decompress it");
  }
  result->was_compressed_ = archive_filter_code(reader, 0) != ARCHIVE_FILTER_NONE;
  return result;
}

Result<std::size_t> Decompressor::read(std::span<std::byte> buffer) {
  if (is_empty_) return 0;
  const auto n = archive_read_data(reader_.get(), buffer.data(), buffer.size());
  if (n < 0) return input_.failed(reader_.get(), "cannot decompress it");
  return static_cast<std::size_t>(n);
}

}  // namespace vmm::engine
