// NetDevice: the virtio network device (virtio 1.2, 5.1) over a backend, with one worker a queue
// pair; or over vhost-net, where the host's kernel serves the pairs and only commands come here. A
// kernel that does not take the rings is done without: they are served here from then on.
//
//   auto device = TRY(NetDevice::create(config, "net0", memory));
//   ...                                // everything else of a machine's start
//   TRY(device->wait_ready());         // a user network is set up, or says why it is not
//
// Queues: receive 0, transmit 0, receive 1, ... and the control queue, which is the third one for
// drivers that do not know of several pairs.
//
// Threads: "net0" serves pair 0 and commands and starts the others ("net0.1", ...) when the guest
// asks for more pairs.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "devices/backend/net/backend.h"
#include "devices/backend/net/vhost_net.h"
#include "devices/virtio/device.h"
#include "devices/virtio/net/config.h"
#include "devices/virtio/net/control_queue.h"
#include "devices/virtio/net/queue_pair.h"
#include "devices/virtio/slot.h"
#include "src/base/log.h"
#include "src/base/worker.h"

namespace vmm::virtio {

// Plain numbers for whoever shows them. With vhost the kernel counts, at the tap.
struct NetStatistics {
  std::uint64_t rx_packets = 0, rx_bytes = 0, rx_dropped = 0;
  std::uint64_t tx_packets = 0, tx_bytes = 0, tx_dropped = 0;
  bool vhost = false;
  bool link_up = true;
};

class NetDevice : public Device {
 public:
  struct Parts {
    std::string name;  // of its threads and in the log: "net0"
    net::MacAddress mac;
    std::optional<std::uint16_t> mtu;
    std::unique_ptr<net::NetBackend> backend;
    std::unique_ptr<net::VhostNet> vhost;  // null: served here
    bool link = true;                      // false: its cable is unplugged from the start
  };

  // Opens what `config` names. Call before privileges are dropped.
  static Result<std::unique_ptr<NetDevice>> create(const NetConfig& config, std::string name,
                                                   const GuestMemory& memory);
  // `memory` outlives the device.
  NetDevice(Parts parts, const GuestMemory& memory);
  ~NetDevice() override;

  // What its cable leads to, or (unplugged) that it leads nowhere; beside the device's work. Waits
  // until a network's process is set up, or says why it is not.
  Result<std::unique_ptr<SlotChange>> prepare(const NetConfig& config);
  // The same network with these ports of the host published, and no others; beside as well.
  Result<std::unique_ptr<SlotChange>> prepare_ports(const NetConfig& config);

  const net::MacAddress& mac() const { return parts_.mac; }
  NetStatistics statistics() const;

  DeviceType type() const override { return DeviceType::net; }
  std::uint64_t features() const override;
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> target) const override;
  Result<void> activate(Activation activation) override;
  std::vector<std::optional<Queue>> deactivate() override;
  std::vector<std::optional<Queue>> suspend() override;
  void save(state::Sections& sections, std::string_view name) const override;
  Result<void> restore(state::Sections& sections, std::string_view name) override;
  Result<void> wait_ready() override { return parts_.backend->wait_ready(); }
  NamedValues metrics() override;
  NamedValues status() const override;
  std::string_view feature_advice() const override {
    return ": it was connected to a network of another kind, such as a tap; --net with that kind, "
           "or unplugged for a card without a link, restores it";
  }

 private:
  struct Pair {
    std::optional<ActiveQueue> receive, transmit;  // while not served
    std::shared_ptr<QueuePair> served;             // null: inactive, or vhost's
    std::unique_ptr<Worker> worker;
  };

  class Exchange;
  class PortExchange;
  std::uint64_t features_with(const net::NetBackend& backend, const net::VhostNet* vhost) const;
  Result<void> check_exchange(const net::NetBackend& backend, const net::VhostNet* vhost,
                              std::uint64_t features) const;
  Result<void> exchange(std::unique_ptr<net::NetBackend>& backend,
                        std::unique_ptr<net::VhostNet>& vhost, bool link);

  unsigned max_pairs() const { return parts_.backend->queue_pairs(); }
  std::size_t control_index() const;
  Result<void> start_serving(bool resumed);
  std::vector<std::optional<Queue>> stop_serving();
  Result<void> start_pair(unsigned index);
  void stop_pair(unsigned index);
  void start_vhost();
  Result<void> try_vhost();
  void stop_vhost();
  Result<void> start_control();
  bool set_pairs(unsigned pairs);
  bool set_offloads(std::uint64_t features);
  void break_device(std::string_view reason);
  void lose_link();
  void retry_link();
  void restore_link();
  // What of the offloads the guest uses now.
  std::uint64_t offloads() const;
  PairContext pair_context();

  Parts parts_;
  const GuestMemory& memory_;

  void note_ports();

  mutable std::mutex mac_mutex_;
  net::MacAddress current_mac_;  // guarded by mac_mutex_: the guest may change it
  mutable std::mutex ports_mutex_;
  std::vector<std::string> ports_;  // guarded by ports_mutex_: of the backend, for status()
  std::atomic<bool> link_up_;
  std::atomic<bool> has_vhost_;
  // The next activation tells the driver to look at its link: it changed, or the driver is a
  // restored one, which saw that of another machine and looks again only when it is told.
  bool tells_link_ = false;
  // Of a card without a link whatever may be plugged in later is to serve what its driver uses;
  // what a restored driver uses is fixed.
  bool hides_ecn_;
  NetCounters counters_;
  log::RateLimit limit_;

  // What the driver set by commands.
  unsigned active_pairs_ = 1;
  std::uint64_t guest_offloads_ = 0;
  bool backend_started_ = false;

  // While active. Changed by the thread that activates, and by pair 0's worker between.
  bool active_ = false;
  std::uint64_t features_ = 0;
  Interrupts* interrupts_ = nullptr;
  std::size_t queue_count_ = 0;
  std::atomic<bool> broken_{false};
  std::vector<Pair> pairs_;
  std::optional<ActiveQueue> control_idle_;  // enabled, but not negotiated
  std::unique_ptr<ControlQueue> control_;
  std::vector<EventFd> calls_;  // vhost's interrupts where the transport has no eventfd for them
};

}  // namespace vmm::virtio
