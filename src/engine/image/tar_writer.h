// TarWriter: a tar archive (pax), by libarchive, to a descriptor.
//
//   TarWriter tar(fd);
//   TRY(tar.open());
//   TRY(tar.add(inode, {.name = "etc/passwd"}, "root:x:0:0::/:/bin/sh\n"));
//   TRY(tar.finish());
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/engine/erofs/tree.h"

struct archive;

namespace vmm::engine {

class TarWriter {
 public:
  struct Names {
    std::string name;
    std::string hard_link;  // the name of an earlier entry; "": none
  };

  explicit TarWriter(int fd) : descriptor_(fd) {}

  Result<void> open();
  // A symbolic link's target and a file's size are of the inode; `content` may be its first part.
  Result<void> add(const erofs::Inode& inode, const Names& names, std::string_view content = {});
  Result<void> write(std::span<const std::byte> bytes);  // the rest of the content
  std::uint64_t written() const;                         // bytes of the archive so far
  Result<void> finish();

 private:
  struct Free {
    void operator()(archive* writer) const;
  };
  std::unexpected<Error> failed() const;

  int descriptor_;
  std::unique_ptr<archive, Free> writer_;
};

}  // namespace vmm::engine
