// Takes images out of an archive: of `docker save`, or an OCI image layout as a tar, of either kind
// compressed or not.
//
// The archive is read once, from a pipe too, and its files may come in any order: each becomes a
// temporary blob whose digest is known when its last byte is. Then the documents say which of them
// are of images, these are published, and the rest goes.
#pragma once

#include <string>
#include <vector>

#include "src/engine/image/byte_source.h"
#include "src/engine/image/catalog.h"

namespace vmm::engine {

struct LoadedImage {
  Digest id;
  std::vector<Reference> names;  // that the archive gave it
};

// Of an index of several platforms, the one that the host runs. Error: not such an archive, or a
// damaged one; images before the damaged one stay.
Result<std::vector<LoadedImage>> load_images(Store& store, ByteSource& archive);

}  // namespace vmm::engine
