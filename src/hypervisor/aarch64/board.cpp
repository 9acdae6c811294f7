#include "arch/board.h"

#include <ctime>

#include "arch/address_plan.h"
#include "arch/boot.h"

namespace vmm::arch {

Result<std::unique_ptr<Board>> Board::create(const kvm::Vm& vm, Bus& /*ports*/, Bus& memory,
                                             GuestRequests requests,
                                             std::optional<SerialLine> serial) {
  std::unique_ptr<Board> board(new Board);
  board->power_key_ = vm.line(line_of(kPowerKeySpi));
  board->generation_line_ = vm.line(line_of(kGenerationSpi));
  board->panic_ = std::make_unique<PanicPort>(std::move(requests.panicked));
  board->rtc_ = std::make_unique<Pl031>([] { return std::time(nullptr); });
  TRY(memory.add(kPanic, PanicPort::kSize, *board->panic_, "pvpanic"));
  TRY(memory.add(kRtc, Pl031::kSize, *board->rtc_, "rtc"));
  if (serial) {
    board->serial_line_ = vm.line(line_of(kSerialSpi));
    board->serial_ = std::make_unique<Pl011>(*board->serial_line_, std::move(serial->output),
                                             std::move(serial->room));
    TRY(memory.add(kSerial, Pl011::kSize, *board->serial_, "serial"));
  }
  return board;
}

Result<void> Board::connect_pci(kvm::Vm& /*vm*/, pci::PciHost& host, Bus& /*ports*/, Bus& memory) {
  TRY(memory.add(kEcam.base.value, kEcam.size, host.ecam(), "ECAM"));
  return memory.add(kPciWindow.base.value, kPciWindow.size, host.window(), "PCI window");
}

Platform Board::describe(unsigned vcpus) const {
  using Device = PlatformDevice;
  const auto window = [](const MemoryRange& range) {
    return Platform::Window{range.base.value, range.size};
  };
  Platform platform;
  for (unsigned i = 0; i < vcpus; ++i) platform.cpus.push_back({.affinity = affinity_of(i)});
  platform.gic =
      Platform::Gic{.distributor = window(kGicDistributor),
                    .redistributors = {kGicRedistributors.value, kGicRedistributorSize * vcpus},
                    .its = window(kGicIts)};
  platform.timer = Platform::Timer{};
  platform.psci = true;
  platform.pci =
      Platform::PciHost{.ecam_base = kEcam.base.value, .last_bus = 0, .mmio32 = window(kPciWindow)};
  if (serial_) {
    platform.devices.push_back(
        {.name = "COM1",
         .resources = {Device::Mmio32{kSerial, Pl011::kSize},
                       Device::Interrupt{.gsi = kSerialSpi, .trigger = Device::Trigger::level}},
         .node = Device::TreeNode{.name = "serial",
                                  .compatible = {"arm,pl011", "arm,primecell"},
                                  .clocks = {"uartclk", "apb_pclk"}}});
    platform.console = "COM1";
  }
  platform.devices.push_back(
      {.name = "RTC0",
       .resources = {Device::Mmio32{kRtc, Pl031::kSize}},
       .node = Device::TreeNode{
           .name = "rtc", .compatible = {"arm,pl031", "arm,primecell"}, .clocks = {"apb_pclk"}}});
  platform.devices.push_back(
      {.name = "PEVT",
       .resources = {Device::Mmio32{kPanic, PanicPort::kSize}},
       .node =
           Device::TreeNode{.name = "pvpanic", .compatible = {"qemu,pvpanic-mmio"}, .clocks = {}}});
  platform.generation_id_address = kGenerationId.value;
  platform.power_key = Device::Interrupt{.gsi = kPowerKeySpi};
  platform.generation_changed = Device::Interrupt{.gsi = kGenerationSpi};
  return platform;
}

void Board::save(state::Sections& sections) {
  if (serial_) sections.put("serial", serial_->save());
  sections.put("rtc", rtc_->save());
}

Result<void> Board::restore(state::Sections& sections) {
  if (serial_) {
    if (const auto result = serial_->restore(TRY(sections.take<Pl011State>("serial"))); !result) {
      return fail("serial: {}", result.error().message());
    }
  }
  rtc_->restore(TRY(sections.take<Pl031State>("rtc")));
  return {};
}

Result<void> Board::renew_identity(const GuestMemory& memory) {
  TRY(write_generation_id(memory));
  generation_line_->pulse();
  return {};
}

}  // namespace vmm::arch
