// ControlQueue: the commands of a network driver (virtio 1.2, 5.1.6.5).
//
// Receive filters are not offered (VIRTIO_NET_F_CTRL_RX): the device passes everything on, and
// Linux would wait for three commands at every start of an interface.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "devices/backend/net/mac_address.h"
#include "devices/virtio/device.h"
#include "devices/virtio/served_queue.h"
#include "src/base/event_loop.h"

namespace vmm::virtio {

class ControlQueue {
 public:
  // What commands do; false refuses one. On the loop's thread.
  struct Handlers {
    std::function<bool(unsigned pairs)> set_pairs;
    std::function<bool(const net::MacAddress& mac)> set_mac;
    std::function<bool(std::uint64_t features)> set_offloads;
    std::function<void(std::string_view reason)> broken;
  };

  ControlQueue(std::uint16_t index, ActiveQueue queue, Interrupts& interrupts, Handlers handlers);

  Result<void> attach(EventLoop& loop);
  void detach();
  // After detach().
  Queue take_queue() { return std::move(idle_.queue); }

 private:
  Handled serve(const Chain& chain);
  bool execute(std::span<const iovec> command, std::uint64_t size);

  const std::uint16_t index_;
  ActiveQueue idle_;  // while it is not served
  Interrupts& interrupts_;
  const Handlers handlers_;
  std::unique_ptr<ServedQueue> served_;  // null: detached
};

}  // namespace vmm::virtio
