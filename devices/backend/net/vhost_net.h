// VhostNet: the host's kernel serves the queues of a network device by itself (vhost-net), between
// the guest's rings and a tap. No frame and no interrupt passes through this process.
//
//   auto vhost = TRY(VhostNet::open(pairs));
//   TRY(vhost->start(memory, features, rings, tap));
//   vhost->stop(queues);     // the kernel is out of the rings, their positions are in the queues
//
// One thread at a time.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "devices/backend/net/backend.h"
#include "devices/virtio/queue.h"
#include "src/base/event_fd.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/memory/guest_memory.h"

struct vhost_memory;

namespace vmm::net {

class VhostNet {
 public:
  struct Ring {
    const virtio::Queue* queue = nullptr;
    int kick = -1;  // eventfd that the driver rings
    int call = -1;  // eventfd that interrupts the driver
  };
  struct RingPair {
    Ring receive, transmit;
  };

  // The error says what the host lacks: /dev/vhost-net, or the permission to open it.
  static Result<std::unique_ptr<VhostNet>> open(unsigned pairs);
  // `devices`: of vhost-net, one a pair, owned by this process; `features`: of all of them.
  VhostNet(std::vector<UniqueFd> devices, EventFd error, std::uint64_t features);
  ~VhostNet();

  // Virtio features that the kernel can serve; a device offers no ring feature beyond them.
  std::uint64_t features() const { return features_; }
  // Serves `pairs` (empty where the driver did not enable one) through the queues of `tap`. After
  // an error stop() takes back what ran already.
  Result<void> start(const GuestMemory& memory, std::uint64_t features,
                     std::span<const std::optional<RingPair>> pairs, const NetBackend& tap);
  // Takes the rings back; `queues` are receive and transmit of each pair, null for those that the
  // driver did not enable.
  void stop(const GuestMemory& memory, std::span<virtio::Queue* const> queues);

  // Signalled when the kernel found a ring broken: the device needs reset.
  int error_fd() const { return error_.fd(); }
  bool consume_error() const { return error_.consume(); }

 private:
  Result<void> start_pair(unsigned pair, const vhost_memory& table, const GuestMemory& memory,
                          std::uint64_t features, const RingPair& rings);
  Result<void> set_ring(unsigned pair, unsigned index, const GuestMemory& memory, const Ring& ring);

  std::vector<UniqueFd> devices_;  // one a pair
  std::vector<bool> running_;
  EventFd error_;
  std::uint64_t features_;
};

}  // namespace vmm::net
