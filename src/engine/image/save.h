// Writes images as one archive: an OCI image layout that `docker load` takes too (manifest.json).
// Blobs are as they came, so that digests stay what they were.
#pragma once

#include <string>
#include <vector>

#include "src/engine/image/catalog.h"

namespace vmm::engine {

struct SavedImage {
  Image image;
  std::vector<std::string> names;  // "busybox:latest": those that were asked for
};

Result<void> save_images(Store& store, const std::vector<SavedImage>& images, int fd);

}  // namespace vmm::engine
