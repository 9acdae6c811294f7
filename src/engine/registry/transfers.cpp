#include "src/engine/registry/transfers.h"

#include <algorithm>
#include <thread>

namespace vmm::engine {

constexpr std::size_t kThreads = 3;

Transfers::Transfers(std::function<Registry()> connect, const LayerEvents& events)
    : connect_(std::move(connect)) {
  events_.on_layer = [this, &events](const Digest& layer, std::string_view what) {
    const std::lock_guard lock(mutex_);
    events.tell(layer, what);
  };
  events_.on_bytes = [this, &events](const Digest& layer, std::string_view what, std::uint64_t done,
                                     std::uint64_t total) {
    const std::lock_guard lock(mutex_);
    if (events.on_bytes) events.on_bytes(layer, what, done, total);
  };
  events_.is_cancelled = [this, &events] {
    return cancel_ || (events.is_cancelled && events.is_cancelled());
  };
}

Result<void> Transfers::run(const std::vector<Descriptor>& blobs, const Work& work) {
  for (const auto& blob : blobs) {
    const auto same = [&blob](const Descriptor& one) { return one.digest == blob.digest; };
    if (std::ranges::none_of(wanted_, same)) wanted_.push_back(blob);
  }
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < std::min(kThreads, wanted_.size()); ++i) {
      threads.emplace_back([this, &work] { serve(work); });
    }
  }
  if (!error_.empty()) return fail("{}", error_);
  return {};
}

void Transfers::serve(const Work& work) {
  try {
    auto registry = connect_();
    for (std::size_t i; !cancel_ && (i = next_++) < wanted_.size();) {
      LayerProgress progress(events_, wanted_[i].digest);
      if (const auto done = work(registry, wanted_[i], progress); !done)
        stop(done.error().message());
    }
  } catch (const std::exception& error) {
    stop(error.what());
  }
}

void Transfers::stop(const std::string& error) {
  const std::lock_guard lock(mutex_);
  if (error_.empty()) error_ = error;
  cancel_ = true;
}

}  // namespace vmm::engine
