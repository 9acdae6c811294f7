#include "firmware/loader/image_source.h"

#include <sys/stat.h>

#include <cstring>

#include "src/base/read_large.h"

namespace vmm::loader {

Result<ImageSource> ImageSource::file(UniqueFd fd) {
  struct stat status{};
  if (::fstat(fd.get(), &status) < 0) return fail_errno("cannot look at the file");
  return ImageSource(std::move(fd), static_cast<std::uint64_t>(status.st_size));
}

ImageSource ImageSource::owned(Mapping bytes) {
  const std::size_t size = bytes.size();
  return {std::move(bytes), size};
}

ImageSource ImageSource::borrowed(std::span<const std::byte> bytes) {
  return {bytes, bytes.size()};
}

Result<void> ImageSource::read(std::uint64_t offset, std::span<std::byte> out) const {
  if (offset > size_ || out.size() > size_ - offset) {
    return fail("the file is truncated: it has {} bytes, {} are needed at offset {}", size_,
                out.size(), offset);
  }
  if (out.empty()) return {};
  if (const auto* fd = std::get_if<UniqueFd>(&bytes_)) return read_large_at(fd->get(), out, offset);
  const auto* mapping = std::get_if<Mapping>(&bytes_);
  const auto bytes = mapping != nullptr ? std::span<const std::byte>(mapping->bytes())
                                        : std::get<std::span<const std::byte>>(bytes_);
  std::memcpy(out.data(), bytes.data() + offset, out.size());
  return {};
}

Result<std::vector<std::byte>> ImageSource::read(std::uint64_t offset, std::uint64_t length) const {
  if (offset > size_ || length > size_ - offset) {
    return fail("the file is truncated: it has {} bytes, {} are needed at offset {}", size_, length,
                offset);
  }
  std::vector<std::byte> bytes(length);
  TRY(read(offset, std::span(bytes)));
  return bytes;
}

int ImageSource::fd() const {
  const auto* fd = std::get_if<UniqueFd>(&bytes_);
  return fd != nullptr ? fd->get() : -1;
}

}  // namespace vmm::loader
