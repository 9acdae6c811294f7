// ImageSource: where the bytes of a kernel are: in a file, in memory that it owns, or in memory of
// the caller. Parsers read from it, so that a big file is never read into memory first: its parts
// go by pread(2) straight to where they are needed.
//
//   const auto source = TRY(ImageSource::file(TRY(open_file(path, O_RDONLY))));
//   const auto image = TRY(parse_elf(source));
//
// Every read is checked against size(). A file that shrinks meanwhile is an error, not a signal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "src/base/mapping.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace vmm::loader {

class ImageSource {
 public:
  static Result<ImageSource> file(UniqueFd fd);
  // The first `size` bytes of a file.
  static ImageSource file(UniqueFd fd, std::uint64_t size) { return {std::move(fd), size}; }
  static ImageSource owned(Mapping bytes);
  static ImageSource borrowed(std::span<const std::byte> bytes);

  std::uint64_t size() const { return size_; }
  // Whole `out`, or an error.
  Result<void> read(std::uint64_t offset, std::span<std::byte> out) const;
  // `length` bytes, after a check that there are so many; for lengths that a file names.
  Result<std::vector<std::byte>> read(std::uint64_t offset, std::uint64_t length) const;
  // The file behind it, for mmap(2) of whole pages, or -1.
  int fd() const;

 private:
  using Bytes = std::variant<UniqueFd, Mapping, std::span<const std::byte>>;
  ImageSource(Bytes bytes, std::uint64_t size) : bytes_(std::move(bytes)), size_(size) {}

  Bytes bytes_;
  std::uint64_t size_ = 0;
};

}  // namespace vmm::loader
