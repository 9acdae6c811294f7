// Saved states of the legacy devices (src/hypervisor/snapshot/FORMAT.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace vmm {

struct RtcState {
  static constexpr std::string_view kKind = "cmos-rtc";
  static constexpr std::uint32_t kVersion = 1;
  std::int64_t offset = 0;  // seconds that the guest set its clock ahead of the host's
  std::uint8_t index = 0;
  std::vector<std::uint8_t> memory;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, offset);
    archive(2, index);
    archive(3, memory);
  }
};

struct PowerPortsState {
  static constexpr std::string_view kKind = "power-ports";
  static constexpr std::uint32_t kVersion = 1;
  std::uint8_t events = 0;  // announced, not read by the guest yet
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, events);
  }
};

struct UartState {
  static constexpr std::string_view kKind = "uart16550";
  static constexpr std::uint32_t kVersion = 1;
  std::vector<std::byte> received;  // by the line, not read by the guest yet
  bool transmit_interrupt = false;
  bool line_high = false;
  bool fifos = false;
  std::uint8_t interrupt_enable = 0;
  std::uint8_t line_control = 0;
  std::uint8_t modem_control = 0;
  std::uint8_t line_errors = 0;
  std::uint8_t scratch = 0;
  std::uint16_t divisor = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, received);
    archive(2, transmit_interrupt);
    archive(3, line_high);
    archive(4, fifos);
    archive(5, interrupt_enable);
    archive(6, line_control);
    archive(7, modem_control);
    archive(8, line_errors);
    archive(9, scratch);
    archive(10, divisor);
  }
};

struct Pl011State {
  static constexpr std::string_view kKind = "pl011";
  static constexpr std::uint32_t kVersion = 1;
  std::vector<std::byte> received;  // by the line, not read by the guest yet
  bool line_high = false;
  std::uint16_t integer_divisor = 0;
  std::uint16_t fraction_divisor = 0;
  std::uint16_t line_control = 0;
  std::uint16_t control = 0;
  std::uint16_t fifo_levels = 0;
  std::uint16_t interrupt_mask = 0;
  std::uint16_t interrupts = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, received);
    archive(2, line_high);
    archive(3, integer_divisor);
    archive(4, fraction_divisor);
    archive(5, line_control);
    archive(6, control);
    archive(7, fifo_levels);
    archive(8, interrupt_mask);
    archive(9, interrupts);
  }
};

struct Pl031State {
  static constexpr std::string_view kKind = "pl031";
  static constexpr std::uint32_t kVersion = 1;
  std::int64_t offset = 0;  // seconds that the guest set its clock ahead of the host's
  std::uint32_t match = 0;
  std::uint32_t load = 0;
  std::uint32_t interrupt_mask = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, offset);
    archive(2, match);
    archive(3, load);
    archive(4, interrupt_mask);
  }
};

}  // namespace vmm
