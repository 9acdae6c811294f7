// Pl011: the PrimeCell UART (Arm DDI 0183), as registers; what its line is connected to is the
// caller's.
//
//   Pl011 uart(line, [&](std::span<const std::byte> bytes) { console.write(bytes); },
//              [&] { console.resume_input(); });
//   const std::size_t taken = uart.receive(input);   // the rest when room() was called
//
// What is written is sent at once, so that its transmitter is always ready and never busy. No DMA,
// no modem.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "devices/legacy/primecell.h"
#include "devices/legacy/state.h"
#include "src/base/result.h"
#include "src/hypervisor/bus/interrupt.h"
#include "src/hypervisor/bus/io_handler.h"

namespace vmm {

class Pl011 : public IoHandler {
 public:
  using Output = std::function<void(std::span<const std::byte>)>;
  using Room = std::function<void()>;

  static constexpr std::uint64_t kSize = primecell::kSize;

  // `output` is called on a vCPU thread for what the guest sends: a line, a FIFO's worth, or what
  // there is when the guest turns from writing to something else. `room` on a vCPU thread when
  // receive() refused bytes and can take some again, by whatever the guest did to make room. Both
  // without a lock held.
  Pl011(InterruptLine& line, Output output, Room room);

  // Sends what the guest wrote last and never looked after. Before the machine ends.
  void flush();

  // Any thread. Input from the line; returns how many bytes fitted. One does while the FIFOs are
  // off: a driver that starts throws away what came before it.
  std::size_t receive(std::span<const std::byte> bytes);

  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

  // While no vCPU runs. save() sends what was written; restore() raises no edge: the level of the
  // line is in the interrupt controller's state.
  Pl011State save();
  Result<void> restore(const Pl011State& state);

 private:
  std::uint32_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint32_t value);
  void send_byte(std::uint8_t value);
  std::size_t receive_limit() const;
  // Whether room_ has to be called, without the lock.
  bool take_room() { return received_.empty() && std::exchange(refused_, false); }
  void update_line();
  std::vector<std::byte> take_pending() { return std::exchange(pending_, {}); }

  InterruptLine& line_;
  const Output output_;
  const Room room_;

  std::mutex mutex_;  // guards all below
  std::deque<std::byte> received_;
  std::vector<std::byte> pending_;  // written by the guest, not sent yet
  bool refused_ = false;            // receive() had no room for all
  bool wrote_ = false;              // the last access was a byte to send
  bool line_high_ = false;
  std::uint16_t integer_divisor_ = 0;
  std::uint16_t fraction_divisor_ = 0;
  std::uint16_t line_control_ = 0;
  std::uint16_t control_;
  std::uint16_t fifo_levels_;
  std::uint16_t interrupt_mask_ = 0;
  std::uint16_t interrupts_ = 0;  // raw; that of received bytes follows received_
};

}  // namespace vmm
