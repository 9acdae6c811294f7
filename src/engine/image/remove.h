// Takes names and images away, in the order and the words of Docker.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/engine/image/catalog.h"

namespace vmm::engine {

enum class Force : std::uint8_t { no, yes };

struct Removal {
  std::vector<std::string> untagged;  // "busybox:latest", "busybox@sha256:..."
  std::vector<Digest> deleted;        // the image, then chain ids of its layers, the top first
};

// Whether a container or a snapshot of one has it.
Result<bool> is_in_use(Store& store, const Digest& image);

// What image_prune takes away: images that nobody uses.
enum class Unused : std::uint8_t { without_tags, all };

// By a name: takes that name, and the image with the last. By an id: all names and the image.
// Error: no such image; by an id that several repositories name, without force; a container runs
// from it, or without force one or a snapshot has it. The contents go with
// Store::collect_garbage().
Result<Removal> remove_image(Store& store, const std::string& name, Force force);

// None: it is in use, has a tag that keeps it, or is gone.
Result<std::optional<Removal>> remove_unused(Store& store, const Image& image, Unused which);

}  // namespace vmm::engine
