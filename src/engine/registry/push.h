// Sends an image to a registry.
#pragma once

#include <functional>
#include <string_view>

#include "src/engine/image/catalog.h"
#include "src/engine/registry/registry.h"

namespace vmm::engine {

struct PushEvents {
  // A layer's blob and what happens to it, in Docker's words: "Preparing", "Pushed",
  // "Layer already exists". From any thread, one at a time.
  std::function<void(const Digest& layer, std::string_view what)> on_layer;
};

struct Pushed {
  Digest digest;           // of the manifest
  std::uint64_t size = 0;  // its bytes
};

// The image's blobs as they came, those that the registry lacks, side by side; then the manifest,
// which names the image there: an upload that breaks off leaves nothing under the name.
// `reference` has a tag.
Result<Pushed> push_image(Store& store, const Image& image, const Reference& reference,
                          const PushEvents& events);

}  // namespace vmm::engine
