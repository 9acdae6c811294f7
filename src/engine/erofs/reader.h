// Reads the metadata of an image that this library wrote. A damaged file is an error, never more.
#pragma once

#include <cstdint>

#include "src/engine/erofs/tree.h"

namespace vmm::erofs {

struct ReadImage {
  Tree tree;                 // first blocks of files as the image has them; device index 0
  std::uint32_t blocks = 0;  // of the image, as its superblock says
};

Result<ReadImage> read_image(int fd);

}  // namespace vmm::erofs
