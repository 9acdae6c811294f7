// PciHost: one PCI bus, reached through ECAM and one 32-bit memory window.
//
//   PciHost host({.ecam = ..., .window = ...});
//   TRY(host.add(function));                // takes the next slot and places its BAR
//   bus.add(..., host.ecam(), "pci ecam");  bus.add(..., host.window(), "pci memory");
#pragma once

#include <vector>

#include "devices/pci/function.h"
#include "src/base/result.h"
#include "src/hypervisor/bus/io_handler.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::pci {

inline constexpr unsigned kSlots = 32;
inline constexpr unsigned kMostFunctions = kSlots - 1;       // the host bridge has the first
inline constexpr std::uint64_t kEcamBytesPerBus = 1u << 20;  // PCI Express 5.0, 7.2.2

class PciHost {
 public:
  // `window`: where BARs are placed.
  explicit PciHost(const MemoryRange& window);

  // While the machine is assembled; `function` outlives the host. Error: no slot or no room left.
  Result<void> add(Function& function);

  // Whether the BAR of `owner` at that address lies in the window and over no other's. Any thread.
  bool is_free(GuestAddress address, const Function& owner) const;

  HostState save() { return {bridge_.save_config()}; }
  Result<void> restore(const HostState& state) { return bridge_.restore_config(state.bridge); }

  IoHandler& ecam() { return ecam_; }
  IoHandler& window() { return window_; }

 private:
  struct Ecam : IoHandler {
    explicit Ecam(PciHost& h) : host(h) {}
    std::uint64_t read(std::uint64_t offset, unsigned size) override;
    void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;
    PciHost& host;
  };
  struct Window : IoHandler {
    explicit Window(PciHost& h) : host(h) {}
    std::uint64_t read(std::uint64_t offset, unsigned size) override;
    void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;
    PciHost& host;
  };
  // Slot 0: kernels take the configuration ports for real only when they find one there. It has no
  // registers of its own.
  class HostBridge : public Function {
   public:
    HostBridge();
    std::uint64_t read_bar(std::uint64_t, unsigned) override { return 0; }
    void write_bar(std::uint64_t, unsigned, std::uint64_t) override {}
  };
  struct Hit {
    Function* function;
    std::uint64_t offset;
  };
  Function* function_at(std::uint64_t ecam_offset) const;
  std::optional<Hit> hit(std::uint64_t window_offset, unsigned size) const;

  const MemoryRange range_;
  std::uint64_t next_bar_;
  HostBridge bridge_;
  std::vector<Function*> functions_;  // by slot
  Ecam ecam_{*this};
  Window window_{*this};
};

}  // namespace vmm::pci
