// Takes an image from its registry into the store.
#pragma once

#include <functional>

#include "src/engine/image/catalog.h"
#include "src/engine/image/manifest.h"
#include "src/engine/registry/registry.h"

namespace vmm::engine {

struct PullEvents {
  // A layer's blob and what happens to it, in Docker's words: "Pulling fs layer", "Already exists",
  // "Download complete". From any thread, one at a time.
  std::function<void(const Digest& layer, std::string_view what)> on_layer;
};

struct Pulled {
  Image image;
  Digest digest;  // of the manifest or index that the name led to
  bool is_new = false;
};

// Layers are downloaded side by side; each is verified before it is a part of the store.
Result<Pulled> pull_image(Store& store, const Reference& reference, const Platform& platform,
                          const PullEvents& events);

}  // namespace vmm::engine
