// Locks that say who uses an image, on its open file description: they go with its last descriptor,
// however the process ends.
//
//   TRY(lock_image(fd, "root.img", ImageUse::write));
//
// Two kinds are taken: vmm's own, which names the other machine in its message, and the bytes that
// QEMU and its tools lock (block/file-posix.c), so that neither they nor vmm change an image that
// the other one uses.
#pragma once

#include <cstdint>
#include <string_view>

#include "src/base/result.h"

namespace vmm::disk {

enum class ImageUse : std::uint8_t {
  read,   // with other readers
  write,  // alone
};

// `fd` is open for that use; `name` is what messages call the image. Error: somebody uses it in a
// way that does not go together with this one. A file system without locks is a warning only.
Result<void> lock_image(int fd, std::string_view name, ImageUse use);

}  // namespace vmm::disk
