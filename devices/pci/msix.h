// MsixTable: the vector table and pending bits of one function (PCI Local Bus 3.0, 6.8.2).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "devices/pci/state.h"
#include "src/base/log.h"
#include "src/base/result.h"
#include "src/hypervisor/bus/interrupt.h"

namespace vmm::pci {

class MsixTable {
 public:
  static constexpr std::uint32_t kEntrySize = 16;

  // `sink` outlives the table.
  MsixTable(MsiSink& sink, std::uint16_t vectors);

  // Of all its messages. While the machine is assembled.
  void set_requester(std::uint16_t requester) { requester_ = requester; }

  std::uint16_t vectors() const { return static_cast<std::uint16_t>(entries_.size()); }

  // Any thread. Sends the vector's message, or remembers it while masked. A vector that does not
  // exist is ignored (virtio's NO_VECTOR).
  void signal(std::uint16_t vector);

  // An eventfd that does what signal() does without this process, until release_routes().
  Result<int> route(std::uint16_t vector);
  void release_routes();

  // The guest's side: the table, the pending bits, and the message control word.
  std::uint64_t read_table(std::uint64_t offset, unsigned size);
  void write_table(std::uint64_t offset, unsigned size, std::uint64_t value);
  std::uint64_t read_pending(std::uint64_t offset, unsigned size);
  void set_control(std::uint16_t control);
  // What a reset of the machine does: all masked, nothing pending.
  void reset();

  // While no vCPU runs and no route is open. restore() sends nothing.
  MsixState save();
  Result<void> restore(const MsixState& state);

 private:
  struct Entry {
    std::uint32_t address_low = 0;
    std::uint32_t address_high = 0;
    std::uint32_t data = 0;
    std::uint32_t control = 1;  // bit 0: masked
    bool pending = false;
    std::unique_ptr<MsiRoute> route;
  };
  MsiMessage message(const Entry& entry) const {
    return {std::uint64_t{entry.address_high} << 32 | entry.address_low, entry.data, requester_};
  }
  bool can_send(const Entry& entry) const {
    return enabled_ && !function_masked_ && (entry.control & 1) == 0;
  }
  void deliver(Entry& entry);
  void update_route(Entry& entry);

  MsiSink& sink_;
  std::uint16_t requester_ = 0;
  log::RateLimit limit_;
  std::mutex mutex_;  // guards all below
  std::vector<Entry> entries_;
  bool enabled_ = false;
  bool function_masked_ = false;
};

}  // namespace vmm::pci
