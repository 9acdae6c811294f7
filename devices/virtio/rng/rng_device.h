// RngDevice: virtio-rng (virtio 1.2, 5.4), the host's random bytes for the guest.
#pragma once

#include <atomic>

#include "devices/virtio/one_queue_device.h"
#include "src/base/event_loop.h"

namespace vmm::virtio {

class RngDevice : public OneQueueDevice {
 public:
  // What one request is given at most, and what is given before the loop sees to its other tasks:
  // the guest asks again.
  static constexpr std::size_t kMaxRequest = 64u << 10;
  static constexpr std::size_t kMaxTurn = 256u << 10;

  explicit RngDevice(EventLoop& loop) : OneQueueDevice(loop, kMaxTurn) {}
  ~RngDevice() override { (void)deactivate(); }

  DeviceType type() const override { return DeviceType::entropy; }
  void read_config(std::uint64_t offset, std::span<std::byte> target) const override;
  void save(state::Sections& sections, std::string_view name) const override;
  Result<void> restore(state::Sections& sections, std::string_view name) override;
  NamedValues metrics() override;

 private:
  Handled serve(const Chain& chain) override;

  std::atomic<std::uint64_t> requests_{0}, bytes_{0};
};

}  // namespace vmm::virtio
