// Sends an image to a registry.
#pragma once

#include "src/engine/image/catalog.h"
#include "src/engine/image/layer_events.h"
#include "src/engine/registry/registry.h"

namespace vmm::engine {

struct Pushed {
  Digest digest;           // of the manifest
  std::uint64_t size = 0;  // its bytes
};

// The image's blobs as they came, those that the registry lacks, side by side; then the manifest,
// which names the image there: an upload that breaks off leaves nothing under the name.
// `reference` has a tag. Tells of each layer "Preparing", then "Pushed" or "Layer already exists".
Result<Pushed> push_image(Store& store, const Image& image, const Reference& reference,
                          const LayerEvents& events);

}  // namespace vmm::engine
