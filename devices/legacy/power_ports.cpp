#include "devices/legacy/power_ports.h"

namespace vmm {
namespace {

constexpr std::uint64_t kSleepEnable = 1u << 5;
constexpr std::uint64_t kResetCommand = 0xfe;  // 8042: pulse output line 0
constexpr std::uint64_t kPanicked = 1;

}  // namespace

PowerPorts::PowerPorts(InterruptLine& line, std::function<void()> power_off,
                       std::function<void()> reset)
    : line_(line), power_off_(std::move(power_off)), reset_(std::move(reset)) {}

void PowerPorts::announce(std::uint8_t event) {
  events_.fetch_or(event);
  line_.pulse();
}

std::uint64_t PowerPorts::read(std::uint64_t offset, unsigned /*size*/) {
  return offset == kEvents ? events_.exchange(0) : 0;
}

void PowerPorts::write(std::uint64_t offset, unsigned /*size*/, std::uint64_t value) {
  if (offset == kSleepControl && (value & kSleepEnable) != 0 &&
      ((value >> 2) & 7) == kSleepTypeS5) {
    power_off_();
  }
  if (offset == kReset && (value & 0xff) == kResetValue) reset_();
}

std::uint64_t KeyboardReset::read(std::uint64_t, unsigned) { return 0; }

void KeyboardReset::write(std::uint64_t, unsigned, std::uint64_t value) {
  if ((value & 0xff) == kResetCommand) reset_();
}

std::uint64_t PanicPort::read(std::uint64_t, unsigned) { return kPanicked; }

void PanicPort::write(std::uint64_t, unsigned, std::uint64_t value) {
  if ((value & kPanicked) != 0) panicked_();
}

}  // namespace vmm
