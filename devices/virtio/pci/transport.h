// PciTransport: a virtio device as a PCI function (virtio 1.2, 4.1), modern interface only.
//
//   auto transport = TRY(PciTransport::create(device, memory, msi_sink, doorbells));
//   TRY(pci_host.add(*transport));
//
// Owns what all kinds share: registers, feature negotiation, status, queues' addresses, MSI-X.
//
// Status (2.1), as the guest drives it:
//
//   reset -> ACKNOWLEDGE, DRIVER -> FEATURES_OK -> DRIVER_OK: device active
//     ^                                                |
//     +---- 0 written: deactivate <-- NEEDS_RESET <----+ the guest broke a rule
//
// Bits are only added until a reset: features are fixed from FEATURES_OK on, queues from DRIVER_OK.
//
// Lock order: registers (mutex_), then the MSI-X table's. Devices call Interrupts from their own
// threads without taking mutex_, so that deactivate() may wait for them under it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "devices/pci/function.h"
#include "devices/pci/msix.h"
#include "devices/virtio/device.h"
#include "devices/virtio/pci/state.h"
#include "devices/virtio/slot.h"
#include "src/base/log.h"

namespace vmm::virtio {

class PciTransport : public pci::Function, private Interrupts {
 public:
  // All arguments outlive the transport. `name` is for the log: "blk0".
  static Result<std::unique_ptr<PciTransport>> create(std::string name, Device& device,
                                                      const GuestMemory& memory, MsiSink& sink,
                                                      DoorbellRegistry& doorbells);
  ~PciTransport() override;

  // Stops the device, as a reset by the guest does. Before the machine goes away.
  void stop();

  // While no vCPU runs: stops the device for a while, with its requests finished and its place in
  // the rings kept, and lets it go on.
  void suspend();
  Result<void> resume();
  // What a slot is connected to, at any time; the guest goes on as if nothing had been. An error
  // when it was made (SlotChange::is_made): the device does not go on until its driver resets it.
  // `suspended` is called when its requests are finished, before it is made.
  Result<void> change(SlotChange& change, const std::function<void()>& suspended = [] {});
  // While suspended. restore(), in a new transport, leaves it suspended; an error changes nothing
  // that matters, as the machine is not started then.
  TransportState save();
  Result<void> restore(const TransportState& state);

  std::uint64_t read_bar(std::uint64_t offset, unsigned size) override;
  void write_bar(std::uint64_t offset, unsigned size, std::uint64_t value) override;
  void set_requester(std::uint16_t requester) override { msix_.set_requester(requester); }

 protected:
  void capability_written(unsigned offset, unsigned size, std::uint32_t value) override;
  std::optional<std::uint32_t> capability_read(unsigned offset, unsigned size) override;
  void bar_moved() override;

 private:
  struct QueueRegisters {
    std::uint16_t max_size = 0;
    QueueConfig config;
    std::uint16_t vector = 0xffff;
    bool enabled = false;
    EventFd kick;
    GuestAddress doorbell;  // where the kick is attached while the device is active
    bool attached = false;
  };

  PciTransport(std::string name, Device& device, const GuestMemory& memory, MsiSink& sink,
               DoorbellRegistry& doorbells, std::vector<QueueRegisters> queues);
  void add_virtio_capabilities();

  std::uint64_t read_common(std::uint64_t offset, unsigned size);
  void write_common(std::uint64_t offset, unsigned size, std::uint64_t value);
  void write_queue(std::uint64_t offset, unsigned size, std::uint64_t value);
  void write_status(std::uint8_t value);
  void activate();
  Result<void> start(Activation activation);
  void suspend_active();
  Result<void> resume_suspended();
  void deactivate();
  void reset();
  void attach_doorbells();
  void detach_doorbells();
  std::uint64_t offered_features() const;
  bool acceptable(std::uint64_t features) const;
  QueueRegisters* selected();

  // Interrupts
  void queue_used(std::uint16_t queue) override;
  void config_changed() override;
  void needs_reset(std::string_view reason) override;
  void set_needs_reset();
  Result<int> queue_event_fd(std::uint16_t queue) override;

  const std::string name_;
  Device& device_;
  const GuestMemory& memory_;
  DoorbellRegistry& doorbells_;
  pci::MsixTable msix_;
  unsigned msix_capability_ = 0;
  unsigned window_capability_ = 0;  // VIRTIO_PCI_CAP_PCI_CFG
  log::RateLimit limit_;

  // Written by device threads too.
  std::atomic<std::uint8_t> status_{0};
  std::atomic<std::uint8_t> isr_{0};
  std::atomic<std::uint8_t> generation_{0};
  std::atomic<std::uint16_t> config_vector_{0xffff};
  std::vector<std::atomic<std::uint16_t>> vectors_;  // of each queue, read by device threads

  std::mutex mutex_;  // guards all below
  std::vector<QueueRegisters> queues_;
  std::uint32_t device_feature_select_ = 0;
  std::uint32_t driver_feature_select_ = 0;
  std::uint64_t driver_features_ = 0;
  std::uint16_t queue_select_ = 0;
  bool active_ = false;
  std::optional<std::vector<std::optional<Queue>>> suspended_;  // an active device's, meanwhile
};

}  // namespace vmm::virtio
