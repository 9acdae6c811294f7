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

Handled RngDevice::serve(const Chain& chain) {
  const std::size_t filled = fill_random(chain.writable(), kMaxRequest);
  requests_.fetch_add(1, std::memory_order_relaxed);
  bytes_.fetch_add(filled, std::memory_order_relaxed);
  // Chains without room cost time too.
  return Handled::used(filled, std::max<std::size_t>(filled, 256));
}

void RngDevice::save(state::Sections& sections, std::string_view name) const {
  sections.put(name, RngState{});
}

Result<void> RngDevice::restore(state::Sections& sections, std::string_view name) {
  TRY(sections.take<RngState>(name));
  return {};
}

NamedValues RngDevice::metrics() {
  return {{"requests", requests_.load(std::memory_order_relaxed)},
          {"bytes", bytes_.load(std::memory_order_relaxed)}};
}

}  // namespace vmm::virtio
