// Takes an image from its registry into the store.
#pragma once

#include "src/engine/image/catalog.h"
#include "src/engine/image/layer_events.h"
#include "src/engine/image/manifest.h"
#include "src/engine/registry/registry.h"

namespace vmm::engine {

struct Pulled {
  Image image;
  Digest digest;  // of the manifest or index that the name led to
  bool is_new = false;
};

// Layers are downloaded side by side; each is verified before it is a part of the store. Cancelled,
// it leaves those that are whole to the next pull.
Result<Pulled> pull_image(Store& store, const Reference& reference, const Platform& platform,
                          const LayerEvents& events);

}  // namespace vmm::engine
