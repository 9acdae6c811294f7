// The small ports by which a guest ends, resets or reports, and by which it is told.
//
// PowerPorts: the registers that hardware-reduced ACPI needs (ACPI 6.5, 4.8.3.7 and 4.8.3.8):
//   +0  sleep control   the guest writes SLP_EN to power off
//   +1  sleep status    reads 0
//   +2  reset           the guest writes kResetValue
//   +4  events          what the generic event device has to announce; reading clears it
// KeyboardReset: the one command of an 8042 that guests still use.
// PanicPort: QEMU's pvpanic device (docs/specs/pvpanic in QEMU).
//
// Handlers call back on a vCPU thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "devices/legacy/state.h"
#include "src/hypervisor/bus/interrupt.h"
#include "src/hypervisor/bus/io_handler.h"

namespace vmm {

class PowerPorts : public IoHandler {
 public:
  static constexpr std::uint64_t kSize = 8;
  static constexpr std::uint64_t kSleepControl = 0;
  static constexpr std::uint64_t kSleepStatus = 1;
  static constexpr std::uint64_t kReset = 2;
  static constexpr std::uint64_t kEvents = 4;
  static constexpr std::uint8_t kResetValue = 1;
  static constexpr std::uint8_t kSleepTypeS5 = 5;  // what \_S5 in the DSDT says

  // Bits of the event register.
  static constexpr std::uint8_t kPowerButton = 1;
  static constexpr std::uint8_t kNewGeneration = 2;

  PowerPorts(InterruptLine& line, std::function<void()> power_off, std::function<void()> reset);

  // Any thread: tells the guest.
  void announce(std::uint8_t event);

  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

  PowerPortsState save() const { return {events_.load()}; }
  // The interrupt of what was announced before is in the interrupt controller's state.
  void restore(const PowerPortsState& state) { events_ = state.events; }

 private:
  InterruptLine& line_;
  const std::function<void()> power_off_;
  const std::function<void()> reset_;
  std::atomic<std::uint8_t> events_{0};
};

class KeyboardReset : public IoHandler {
 public:
  static constexpr std::uint64_t kPort = 0x64;
  static constexpr std::uint64_t kSize = 1;
  explicit KeyboardReset(std::function<void()> reset) : reset_(std::move(reset)) {}
  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

 private:
  const std::function<void()> reset_;
};

class PanicPort : public IoHandler {
 public:
  static constexpr std::uint64_t kPort = 0x505;
  static constexpr std::uint64_t kSize = 1;
  explicit PanicPort(std::function<void()> panicked) : panicked_(std::move(panicked)) {}
  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

 private:
  const std::function<void()> panicked_;
};

}  // namespace vmm
