// What becomes of the layers of an image that comes or goes, for whoever shows it to a person.
//
//   LayerEvents events;
//   events.on_layer = [](const Digest& layer, std::string_view what) { ... "Pull complete" ... };
//   ... pull_image(store, reference, platform, events) ...
//
// The work on one layer tells them by a Progress:
//
//   LayerProgress progress(events, layer);
//   progress.begin("Downloading", size);
//   TRY(progress.advance(piece.size()));
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "src/base/progress.h"
#include "src/engine/store/digest.h"

namespace vmm::engine {

// on_layer and on_bytes are called from any thread, one at a time.
struct LayerEvents {
  // A layer's blob and what has happened to it, in Docker's words: "Pulling fs layer",
  // "Already exists", "Download complete".
  std::function<void(const Digest& layer, std::string_view what)> on_layer;
  // How far that is which takes time: "Downloading", "Extracting", "Pushing".
  std::function<void(const Digest& layer, std::string_view what, std::uint64_t done,
                     std::uint64_t total)>
      on_bytes;
  // Whether the work is to end; what is whole by then stays. From any thread, many at a time.
  std::function<bool()> is_cancelled;

  void tell(const Digest& layer, std::string_view what) const {
    if (on_layer) on_layer(layer, what);
  }
};

// `events` outlives it.
class LayerProgress final : public Progress {
 public:
  LayerProgress(const LayerEvents& events, const Digest& layer) : events_(events), layer_(layer) {}

  void begin(const char* phase, std::uint64_t total) override {
    phase_ = phase, total_ = total, done_ = 0;
    tell();
  }
  Result<void> advance(std::uint64_t bytes) override {
    if (events_.is_cancelled && events_.is_cancelled()) {
      return std::unexpected(Error("cancelled", kCancelled));
    }
    done_ += bytes;
    tell();  // of 0 bytes, too: a picture that was left out may be due
    return {};
  }

 private:
  void tell() const {
    if (events_.on_bytes) events_.on_bytes(layer_, phase_, done_, total_);
  }

  const LayerEvents& events_;
  Digest layer_;
  std::string_view phase_;
  std::uint64_t done_ = 0, total_ = 0;
};

}  // namespace vmm::engine
