// The merged image of layers: EROFS metadata alone, whose files' data is in the layers' images.
//
// The blocks of the disk that a machine gets are this file, then each layer's, one behind another:
// all are whole blocks, and the addresses of files count through them. No layer is copied, and
// every image that has a layer shares its file.
#pragma once

#include <cstdint>
#include <span>

#include "src/engine/erofs/tree.h"

namespace vmm::engine {

// `layers` are the images of write_layer_image(), the lowest first; writes to `fd`, an empty file.
// Error: a damaged image; a hard link to a file that no layer has.
Result<void> write_merged_image(std::span<const int> layers, int fd);

}  // namespace vmm::engine
