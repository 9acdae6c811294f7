// Transfers: blobs that go to or from a registry side by side. The first error ends the others.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "src/engine/image/manifest.h"
#include "src/engine/registry/registry.h"

namespace vmm::engine {

class Transfers {
 public:
  // On a thread of the transfers; each has a connection of its own.
  using Work = std::function<Result<void>(Registry& registry, const Descriptor& blob)>;

  explicit Transfers(std::function<Registry()> connect) : connect_(std::move(connect)) {}

  // A blob that is there twice is transferred once.
  Result<void> run(const std::vector<Descriptor>& blobs, const Work& work);
  // For Registry::blob().
  const std::atomic<bool>& canceled() const { return cancel_; }
  // Runs what is no business of two threads at once.
  void tell(const std::function<void()>& what) {
    const std::lock_guard lock(mutex_);
    what();
  }

 private:
  void serve(const Work& work);
  void stop(const std::string& error);

  std::function<Registry()> connect_;
  std::vector<Descriptor> wanted_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<bool> cancel_ = false;
  std::mutex mutex_;
  std::string error_;
};

}  // namespace vmm::engine
