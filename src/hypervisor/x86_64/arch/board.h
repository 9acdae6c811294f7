// Board: the devices that every machine of this architecture has beside PCI, and the description
// of the whole for the guest's firmware tables.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "devices/legacy/cmos_rtc.h"
#include "devices/legacy/power_ports.h"
#include "devices/legacy/uart16550.h"
#include "devices/pci/config_ports.h"
#include "devices/pci/host.h"
#include "firmware/platform.h"
#include "src/base/result.h"
#include "src/hypervisor/bus/bus.h"
#include "src/hypervisor/kvm/kvm.h"
#include "src/hypervisor/state/sections.h"

namespace vmm::arch {

// What the guest asks for by a register; called on a vCPU thread.
struct GuestRequests {
  std::function<void()> power_off;
  std::function<void()> reset;
  std::function<void()> panicked;
};

// The line of the serial console; nothing: no serial port at all, which a guest boots quicker on.
struct SerialLine {
  Uart16550::Output output;
  Uart16550::Room room;
};

class Board {
 public:
  static Result<std::unique_ptr<Board>> create(const kvm::Vm& vm, Bus& ports, Bus& memory,
                                               GuestRequests requests,
                                               std::optional<SerialLine> serial);

  // Gives the PCI host its addresses. It outlives the board's last access. Before the first vCPU.
  Result<void> connect_pci(kvm::Vm& vm, pci::PciHost& host, Bus& ports, Bus& memory);

  // What the guest sees: this board, and the PCI host that the machine put beside it.
  Platform describe(unsigned vcpus) const;

  // Null without a serial port.
  Uart16550* serial() { return serial_.get(); }
  // While no vCPU runs; restore() in a fresh board. Errors name the device.
  void save(state::Sections& sections);
  Result<void> restore(state::Sections& sections);
  // Tells the guest that it is a copy now: a generation ID of its own (VMGENID), then the event.
  Result<void> renew_identity(const GuestMemory& memory);

  void press_power_button() { power_->announce(PowerPorts::kPowerButton); }

 private:
  Board() = default;
  std::unique_ptr<InterruptLine> serial_line_;
  std::unique_ptr<InterruptLine> event_line_;
  std::unique_ptr<Uart16550> serial_;
  std::unique_ptr<PowerPorts> power_;
  std::unique_ptr<KeyboardReset> keyboard_;
  std::unique_ptr<PanicPort> panic_;
  std::unique_ptr<CmosRtc> rtc_;
  std::unique_ptr<pci::ConfigPorts> config_ports_;
};

}  // namespace vmm::arch
