#include "arch/board.h"

#include <ctime>

#include "arch/address_plan.h"
#include "arch/boot.h"

namespace vmm::arch {

Result<std::unique_ptr<Board>> Board::create(const kvm::Vm& vm, Bus& ports, Bus& /*memory*/,
                                             GuestRequests requests,
                                             std::optional<SerialLine> serial) {
  std::unique_ptr<Board> board(new Board);
  board->event_line_ = vm.line(kEventGsi);
  board->power_ = std::make_unique<PowerPorts>(*board->event_line_, std::move(requests.power_off),
                                               requests.reset);
  board->keyboard_ = std::make_unique<KeyboardReset>(std::move(requests.reset));
  board->panic_ = std::make_unique<PanicPort>(std::move(requests.panicked));
  board->rtc_ = std::make_unique<CmosRtc>([] { return std::time(nullptr); });
  TRY(ports.add(kPowerPort, PowerPorts::kSize, *board->power_, "power"));
  TRY(ports.add(KeyboardReset::kPort, KeyboardReset::kSize, *board->keyboard_, "8042"));
  TRY(ports.add(PanicPort::kPort, PanicPort::kSize, *board->panic_, "pvpanic"));
  TRY(ports.add(kRtcPort, CmosRtc::kSize, *board->rtc_, "rtc"));
  if (serial) {
    board->serial_line_ = vm.line(kSerialGsi);
    board->serial_ = std::make_unique<Uart16550>(*board->serial_line_, std::move(serial->output),
                                                 std::move(serial->room));
    TRY(ports.add(kSerialPort, Uart16550::kSize, *board->serial_, "serial"));
  }
  return board;
}

Result<void> Board::connect_pci(kvm::Vm& vm, pci::PciHost& host, Bus& ports, Bus& memory) {
  config_ports_ = std::make_unique<pci::ConfigPorts>(host);
  // Of the two ports that each access takes, the address's is only written.
  vm.collect_port_writes(pci::ConfigPorts::kBase, pci::ConfigPorts::kAddressSize);
  TRY(ports.add(pci::ConfigPorts::kBase, pci::ConfigPorts::kSize, *config_ports_, "PCI ports"));
  TRY(memory.add(kEcam.base.value, kEcam.size, host.ecam(), "ECAM"));
  return memory.add(kPciWindow.base.value, kPciWindow.size, host.window(), "PCI window");
}

Platform Board::describe(unsigned vcpus) const {
  Platform platform;
  for (unsigned i = 0; i < vcpus; ++i) platform.cpus.push_back({.apic_id = i});
  platform.local_apic_address = kLocalApic;
  platform.io_apic = {.address = kIoApic, .gsi_base = 0, .id = 0};
  platform.pci =
      Platform::PciHost{.ecam_base = kEcam.base.value,
                        .last_bus = 0,
                        .mmio32 = {.base = kPciWindow.base.value, .size = kPciWindow.size}};
  if (serial_) {
    platform.devices.push_back(
        {.name = "COM1",
         .acpi_hid = "PNP0501",
         .resources = {PlatformDevice::IoPorts{kSerialPort, Uart16550::kSize},
                       PlatformDevice::Interrupt{.gsi = kSerialGsi}}});
  }
  platform.devices.push_back({.name = "RTC0",
                              .acpi_hid = "PNP0B00",
                              .resources = {PlatformDevice::IoPorts{kRtcPort, CmosRtc::kSize}}});
  platform.devices.push_back(
      {.name = "PEVT",
       .acpi_hid = "QEMU0001",
       .resources = {PlatformDevice::IoPorts{PanicPort::kPort, PanicPort::kSize}}});
  const auto port = [](std::uint64_t offset) {
    return PlatformRegister{PlatformRegister::Space::io, kPowerPort + offset};
  };
  platform.generation_id_address = kGenerationId.value;
  platform.events = Platform::EventDevice{.power_button = PowerPorts::kPowerButton,
                                          .generation_changed = PowerPorts::kNewGeneration,
                                          .interrupt = {.gsi = kEventGsi},
                                          .status = port(PowerPorts::kEvents)};
  platform.reset =
      Platform::Reset{.reg = port(PowerPorts::kReset), .value = PowerPorts::kResetValue};
  platform.sleep = Platform::Sleep{.power_off_type = PowerPorts::kSleepTypeS5,
                                   .control = port(PowerPorts::kSleepControl),
                                   .status = port(PowerPorts::kSleepStatus)};
  return platform;
}

void Board::save(state::Sections& sections) {
  if (serial_) sections.put("serial", serial_->save());
  sections.put("rtc", rtc_->save());
  sections.put("power", power_->save());
  sections.put("pci.ports", config_ports_->save());
}

Result<void> Board::restore(state::Sections& sections) {
  if (serial_) {
    if (const auto result = serial_->restore(TRY(sections.take<UartState>("serial"))); !result) {
      return fail("serial: {}", result.error().message());
    }
  }
  if (const auto result = rtc_->restore(TRY(sections.take<RtcState>("rtc"))); !result) {
    return fail("rtc: {}", result.error().message());
  }
  power_->restore(TRY(sections.take<PowerPortsState>("power")));
  config_ports_->restore(TRY(sections.take<pci::ConfigPortsState>("pci.ports")));
  return {};
}

Result<void> Board::renew_identity(const GuestMemory& memory) {
  TRY(write_generation_id(memory));
  power_->announce(PowerPorts::kNewGeneration);
  return {};
}

}  // namespace vmm::arch
