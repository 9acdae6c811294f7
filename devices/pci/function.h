// Function: one PCI function with a configuration space, capabilities and at most one memory BAR.
//
// A kind of function derives from it, fills in the constructor what its driver looks for, and
// answers read_bar and write_bar. PciHost (host.h) finds functions for the guest's accesses.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>

#include "devices/pci/registers.h"
#include "devices/pci/state.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_address.h"

namespace vmm::pci {

struct Identity {
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  std::uint16_t subsystem_vendor = 0;
  std::uint16_t subsystem = 0;
  std::uint8_t revision = 0;
  std::uint32_t class_code = 0;  // base class, sub-class, interface: 0x010000 is a SCSI controller
};

class PciHost;

class Function {
 public:
  // `bar_size`: bytes of BAR 0, a 32-bit memory BAR; a power of two from 4 KiB on, or 0 for none.
  Function(const Identity& identity, std::uint32_t bar_size);
  virtual ~Function() = default;

  // Any vCPU thread. `size` is 1, 2 or 4, `offset` within kConfigSize and aligned to `size`.
  std::uint32_t read_config(unsigned offset, unsigned size);
  void write_config(unsigned offset, unsigned size, std::uint32_t value);

  // Where BAR 0 answers now; nothing while the guest has memory decoding off.
  std::optional<GuestAddress> bar_address() const;
  std::uint32_t bar_size() const { return bar_size_; }
  // What firmware does: places the BAR and leaves decoding off.
  void assign_bar(GuestAddress address);
  // The host that it belongs to, while the machine is assembled; it outlives the guest's last
  // access.
  void set_host(const PciHost& host) { host_ = &host; }
  // What its messages come from: bus, device and function (8, 5 and 3 bits). While the machine is
  // assembled.
  virtual void set_requester(std::uint16_t /*requester*/) {}

  // While no vCPU runs. Error: the state is one of another function, whose fixed registers differ.
  FunctionState save_config();
  Result<void> restore_config(const FunctionState& state);

  // Any vCPU thread, several at once.
  virtual std::uint64_t read_bar(std::uint64_t offset, unsigned size) = 0;
  virtual void write_bar(std::uint64_t offset, unsigned size, std::uint64_t value) = 0;

 protected:
  // For constructors. Appends a capability: `body` follows the two bytes of id and next pointer;
  // bits set in `writable` (as long as `body`, or empty) can be changed by the guest.
  // Returns the capability's offset.
  unsigned add_capability(std::uint8_t id, std::span<const std::uint8_t> body,
                          std::span<const std::uint8_t> writable = {});

  // bar_address(), or nothing while the guest put the BAR outside of its host's window or over that
  // of another function: what comes in there is not for this one alone.
  std::optional<GuestAddress> own_bar_address() const;

  // Called, with no lock of this class held, after the guest changed the registers named.
  virtual void capability_written(unsigned offset, unsigned size, std::uint32_t value);
  virtual void bar_moved();
  // Lets a capability whose content lies elsewhere answer; nothing: the stored bytes do.
  virtual std::optional<std::uint32_t> capability_read(unsigned offset, unsigned size);

 private:
  void set(unsigned offset, unsigned size, std::uint32_t value);
  std::uint32_t get(unsigned offset, unsigned size) const;
  void update_bar();

  const std::uint32_t bar_size_;
  const PciHost* host_ = nullptr;
  std::mutex mutex_;  // guards bytes_
  std::array<std::uint8_t, kConfigSize> bytes_{};
  std::array<std::uint8_t, kConfigSize> writable_{};  // a bit set: the guest may change it
  unsigned last_capability_ = 0;
  unsigned next_capability_ = kFirstCapability;
  // 0 while decoding is off; 0 is no address of a BAR here. Read by every MMIO exit.
  std::atomic<std::uint64_t> bar_address_{0};
};

}  // namespace vmm::pci
