// Transfers: blobs that go to or from a registry side by side. The first error ends the others, and
// so does whoever watches.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "src/engine/image/layer_events.h"
#include "src/engine/image/manifest.h"
#include "src/engine/registry/registry.h"

namespace vmm::engine {

class Transfers {
 public:
  // On a thread of the transfers; each has a connection of its own.
  using Work =
      std::function<Result<void>(Registry& registry, const Descriptor& blob, Progress& progress)>;

  // `events` outlives it.
  Transfers(std::function<Registry()> connect, const LayerEvents& events);
  Transfers(const Transfers&) = delete;

  // A blob that is there twice is transferred once.
  Result<void> run(const std::vector<Descriptor>& blobs, const Work& work);
  void tell(const Digest& layer, std::string_view what) const { events_.tell(layer, what); }

 private:
  void serve(const Work& work);
  void stop(const std::string& error);

  std::function<Registry()> connect_;
  std::vector<Descriptor> wanted_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<bool> cancel_ = false;
  std::mutex mutex_;  // guards what events_ calls, and error_
  LayerEvents events_;
  std::string error_;
};

}  // namespace vmm::engine
