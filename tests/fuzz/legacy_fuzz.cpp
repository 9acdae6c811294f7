// A guest's accesses to the devices that are no PCI functions: serial lines, clocks, power,
// keyboard reset, panic. Each four bytes of the input are one access, or a byte that comes in over
// the serial line.
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "devices/legacy/cmos_rtc.h"
#include "devices/legacy/pl011.h"
#include "devices/legacy/pl031.h"
#include "devices/legacy/power_ports.h"
#include "devices/legacy/uart16550.h"

namespace {

struct NoLine : vmm::InterruptLine {
  void set_level(bool) override {}
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  NoLine line;
  const auto nothing = [] {};
  Uart16550 uart(line, [](std::span<const std::byte>) {}, nothing);
  CmosRtc rtc([] { return std::time_t{1'700'000'000}; });
  PowerPorts power(line, nothing, nothing);
  KeyboardReset keyboard(nothing);
  PanicPort panic(nothing);
  Pl011 pl011(line, [](std::span<const std::byte>) {}, nothing);
  Pl031 pl031([] { return std::time_t{1'700'000'000}; });
  struct Device {
    IoHandler* handler;
    std::uint64_t size;
  };
  const std::array<Device, 7> devices = {{{&uart, Uart16550::kSize},
                                          {&rtc, CmosRtc::kSize},
                                          {&power, PowerPorts::kSize},
                                          {&keyboard, KeyboardReset::kSize},
                                          {&panic, PanicPort::kSize},
                                          {&pl011, Pl011::kSize},
                                          {&pl031, Pl031::kSize}}};
  for (std::span input(data, size); input.size() >= 4; input = input.subspan(4)) {
    const auto choice = static_cast<std::size_t>(input[0] % (devices.size() + 1));
    if (choice == devices.size()) {
      (void)uart.receive(std::as_bytes(input.subspan(1, 3)));
      (void)pl011.receive(std::as_bytes(input.subspan(1, 3)));
      continue;
    }
    const auto& device = devices[choice];
    const unsigned bytes = 1u << (input[1] >> 1 & 3);
    // Of a page of registers, the words at its start and at its end.
    const std::uint64_t word = input[2] * std::uint64_t{4};
    const std::uint64_t offset = device.size < 0x1000 ? input[2] % device.size
                                 : word < 0x80        ? word
                                                      : 0xc00 + word;
    if (offset + bytes > device.size) continue;  // the bus lets none through
    if ((input[1] & 1) != 0) {
      device.handler->write(offset, bytes, input[3] * 0x0101'0101ull);
    } else {
      (void)device.handler->read(offset, bytes);
    }
  }
  return 0;
}
