// RngDevice: virtio-rng (virtio 1.2, 5.4), the host's random bytes for the guest.
#pragma once

#include <atomic>
#include <memory>

#include "devices/virtio/device.h"
#include "devices/virtio/served_queue.h"
#include "src/base/event_loop.h"

namespace vmm::virtio {

class RngDevice : public Device {
 public:
  // What one request is given at most, and what is given before the loop sees to its other tasks:
  // the guest asks again.
  static constexpr std::size_t kMaxRequest = 64u << 10;
  static constexpr std::size_t kMaxTurn = 256u << 10;

  // Serves on `loop`, whose thread must not wait for the one that calls activate or deactivate.
  explicit RngDevice(EventLoop& loop) : loop_(loop) {}
  ~RngDevice() override { (void)deactivate(); }

  DeviceType type() const override { return DeviceType::entropy; }
  std::uint64_t features() const override { return kFeatureEventIdx | kFeatureIndirectDescriptors; }
  std::vector<std::uint16_t> queue_sizes() const override { return {64}; }
  void read_config(std::uint64_t offset, std::span<std::byte> target) const override;
  Result<void> activate(Activation activation) override;
  std::vector<std::optional<Queue>> deactivate() override;
  void save(state::Sections& sections, std::string_view name) const override;
  Result<void> restore(state::Sections& sections, std::string_view name) override;
  NamedValues metrics() override;

 private:
  Handled serve(const Chain& chain);

  EventLoop& loop_;
  // While active, on the loop's thread; null: the driver did not enable it.
  bool active_ = false;
  std::unique_ptr<ServedQueue> queue_;
  std::atomic<std::uint64_t> requests_{0}, bytes_{0};
};

}  // namespace vmm::virtio
