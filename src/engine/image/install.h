// Makes an image of blobs that the store has: its layers as EROFS images, their merge, and the rows
// that name it. What is there already is not made again.
#pragma once

#include <string_view>
#include <vector>

#include "src/engine/image/catalog.h"
#include "src/engine/image/layer_events.h"
#include "src/engine/image/manifest.h"

namespace vmm::engine {

// `manifest` and all that it names are published. Tells of each layer that is unpacked
// "Extracting" and "Pull complete". Error: a digest mismatch, a layer that is not an
// archive, no room.
Result<Image> install_image(Store& store, const Digest& manifest,
                            const std::vector<Reference>& names, const LayerEvents& events = {});

// Of a layer's blob, as it is compressed.
Result<std::string> layer_media_type(const ContentStore& content, const Digest& blob);

}  // namespace vmm::engine
