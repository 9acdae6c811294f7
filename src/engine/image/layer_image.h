// A layer as an EROFS image, made from its archive as it streams by.
//
// Theory of operation:
//   1. The archive's entries become a tree (erofs/tree.h). Files' data goes to the image at once,
//      in whole blocks from block 1 on; blocks of zeroes become holes of the file.
//   2. Later entries replace earlier ones of the same name. Names are resolved within the layer as
//      containerd does: "..", absolute names and symbolic links cannot leave the root. The entry of
//      a hard link sets mode, owner, time and attributes of its file anew, as in Docker and podman
//      (not in tar): what an image's maker has seen is what the last name says.
//   3. Whiteouts hide files of the layers below, never those of the layer itself, whatever the
//      order (OCI image-spec, layer.md). They, and links to files of the layers below, stay marks
//      (layer_marks.h) until the layers are merged.
//   4. Metadata follows the data; the superblock, in block 0, is last.
//
// The archive is hostile: names, depths, numbers and sizes are bounded.
#pragma once

#include <cstdint>

#include "src/engine/image/byte_source.h"

namespace vmm::engine {

struct LayerLimits {
  std::uint64_t archive_bytes = 1ull << 40;  // uncompressed
  std::uint64_t entries = 4'000'000;
  std::uint64_t name_bytes = 512u << 20;  // of all names, targets and attributes
};

struct LayerImage {
  Digest diff_id;          // of the uncompressed archive
  std::uint64_t size = 0;  // bytes of its files, as `images` shows them
};

// Writes to `fd`, an empty file. `compressed` may be plain too.
Result<LayerImage> write_layer_image(ByteSource& compressed, int fd, const LayerLimits& limits);

}  // namespace vmm::engine
