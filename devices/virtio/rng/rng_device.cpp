#include "devices/virtio/rng/rng_device.h"

#include <sys/random.h>

#include <algorithm>

#include "devices/virtio/rng/state.h"

namespace vmm::virtio {
namespace {

// Fills the buffers up to `limit` bytes; returns how many.
std::size_t fill_random(std::span<const iovec> buffers, std::size_t limit) {
  std::size_t filled = 0;
  for (const auto& buffer : buffers) {
    const std::size_t size = std::min(buffer.iov_len, limit - filled);
    for (std::size_t done = 0; done < size;) {
      const ssize_t n =
          ::getrandom(static_cast<std::byte*>(buffer.iov_base) + done, size - done, 0);
      if (n < 0 && errno != EINTR) return filled + done;
      if (n > 0) done += static_cast<std::size_t>(n);
    }
    filled += size;
  }
  return filled;
}

}  // namespace

void RngDevice::read_config(std::uint64_t offset, std::span<std::byte> target) const {
  read_config_bytes({}, offset, target);
}

Result<void> RngDevice::activate(Activation activation) {
  Result<void> result;
  loop_.call([&] {
    auto active = std::make_unique<Active>();
    active->queue = std::move(activation.queues.at(0));
    active->interrupts = activation.interrupts;
    if (active->queue) {
      result = loop_.watch(active->queue->kick->fd(), EPOLLIN | EPOLLET,
                           [this](std::uint32_t) { serve(); });
      if (!result) return;
    }
    active_ = std::move(active);
    serve();  // requests of before a restore or a stop
  });
  return result;
}

std::vector<std::optional<Queue>> RngDevice::deactivate() {
  std::vector<std::optional<Queue>> queues;
  loop_.call([&] {
    if (!active_) return;
    auto& queue = queues.emplace_back();
    if (active_->queue) {
      loop_.forget(active_->queue->kick->fd());
      queue = std::move(active_->queue->queue);
    }
    active_.reset();
  });
  return queues;
}

void RngDevice::serve() {
  if (!active_ || !active_->queue || active_->broken) return;
  auto& queue = active_->queue->queue;
  const auto more = serve_turn(queue);
  if (!more) {
    active_->broken = true;
    active_->interrupts->needs_reset(more.error().message());
    return;
  }
  if (queue.take_notification()) active_->interrupts->queue_used(0);
  if (*more) active_->queue->kick->signal();  // to be back after the loop's other tasks
}

// True when chains are left for the next turn.
Result<bool> RngDevice::serve_turn(Queue& queue) {
  queue.disable_kicks();
  std::size_t given = 0;
  for (;;) {
    auto chain = TRY(queue.pop());
    if (!chain) {
      if (!queue.enable_kicks()) return false;
      continue;
    }
    const std::size_t filled = fill_random(chain->writable(), kMaxRequest);
    queue.push(std::move(*chain), static_cast<std::uint32_t>(filled));
    // Chains without room cost time too.
    given += std::max<std::size_t>(filled, 256);
    if (given >= kMaxTurn) return true;
  }
}

void RngDevice::save(state::Sections& sections, std::string_view name) const {
  sections.put(name, RngState{});
}

Result<void> RngDevice::restore(state::Sections& sections, std::string_view name) {
  TRY(sections.take<RngState>(name));
  return {};
}

}  // namespace vmm::virtio
