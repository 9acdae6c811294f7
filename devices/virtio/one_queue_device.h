// OneQueueDevice: a device whose only queue needs nothing but each of its chains handled, in turns,
// on the machine's loop.
//
//   class RngDevice : public OneQueueDevice {
//    public:
//     explicit RngDevice(EventLoop& loop) : OneQueueDevice(loop, kMaxTurn) {}
//     ~RngDevice() override { (void)deactivate(); }   // before what serve() uses ends
//    private:
//     Handled serve(const Chain& chain) override;
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "devices/virtio/device.h"
#include "devices/virtio/served_queue.h"
#include "src/base/event_loop.h"

namespace vmm::virtio {

class OneQueueDevice : public Device {
 public:
  std::uint64_t features() const override { return kFeatureEventIdx | kFeatureIndirectDescriptors; }
  std::vector<std::uint16_t> queue_sizes() const override { return {64}; }
  Result<void> activate(Activation activation) override;
  std::vector<std::optional<Queue>> deactivate() override;

 protected:
  // Serves on `loop`, whose thread must not wait for the one that calls activate or deactivate.
  // `turn`: what chains may cost before the loop sees to its other tasks.
  OneQueueDevice(EventLoop& loop, std::size_t turn) : loop_(loop), turn_(turn) {}

 private:
  // On the loop's thread.
  virtual Handled serve(const Chain& chain) = 0;

  EventLoop& loop_;
  const std::size_t turn_;
  // While active, on the loop's thread; null: the driver did not enable it.
  bool active_ = false;
  std::unique_ptr<ServedQueue> queue_;
};

}  // namespace vmm::virtio
