// resize(): another size for a disk that nobody uses. resize_image(): for one that is open.
#pragma once

#include <cstdint>
#include <string>

#include "src/base/result.h"
#include "src/disk/disk_config.h"
#include "src/disk/qcow2/chain.h"

namespace vmm::disk::qcow2 {

enum class Shrink : std::uint8_t { refused, allowed };

struct ResizeOptions {
  std::string path;
  ImageFormat format = ImageFormat::automatic;
  std::uint64_t size = 0;  // bytes, a multiple of 512
  bool relative = false;   // so many bytes more
  Shrink shrink = Shrink::refused;
};

// What is new reads as zeroes, whatever lies behind the image. A crash leaves the old size or the
// new one; when it shrinks, what is to go may be gone with the old size.
Result<void> resize(const ResizeOptions& options);
// The same of a chain whose top is an image. While nothing is in flight; a larger one that could
// not be made is as it was.
Result<void> resize_image(Chain& chain, std::uint64_t size);

}  // namespace vmm::disk::qcow2
