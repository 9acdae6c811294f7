#include "devices/virtio/one_queue_device.h"

#include <utility>

namespace vmm::virtio {

Result<void> OneQueueDevice::activate(Activation activation) {
  Result<void> result;
  loop_.call([&] {
    if (auto& active = activation.queues.at(0)) {
      auto queue = std::make_unique<ServedQueue>(
          loop_, std::uint16_t{0}, std::move(*active), *activation.interrupts, turn_,
          [this](const Chain& chain) { return serve(chain); },
          [interrupts = activation.interrupts](std::string_view reason) {
            interrupts->needs_reset(reason);
          });
      result = queue->start();
      if (!result) return;
      queue_ = std::move(queue);
    }
    active_ = true;
  });
  return result;
}

std::vector<std::optional<Queue>> OneQueueDevice::deactivate() {
  std::vector<std::optional<Queue>> queues;
  loop_.call([&] {
    if (!std::exchange(active_, false)) return;
    auto& queue = queues.emplace_back();
    if (queue_) queue = queue_->stop();
    queue_.reset();
  });
  return queues;
}

}  // namespace vmm::virtio
