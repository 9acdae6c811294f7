// Uart16550: the serial port of a PC, as registers; what its line is connected to is the caller's.
//
//   Uart16550 uart(line, [&](std::span<const std::byte> bytes) { console.write(bytes); },
//                  [&] { console.resume_input(); });
//   const std::size_t taken = uart.receive(input);   // the rest when room() was called
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "devices/legacy/state.h"
#include "src/base/result.h"
#include "src/hypervisor/bus/interrupt.h"
#include "src/hypervisor/bus/io_handler.h"

namespace vmm {

class Uart16550 : public IoHandler {
 public:
  using Output = std::function<void(std::span<const std::byte>)>;
  using Room = std::function<void()>;

  static constexpr std::uint64_t kSize = 8;  // bytes of registers

  // `output` is called on a vCPU thread for what the guest sends, up to a FIFO's worth at a time:
  // a guest fills the FIFO and then looks at the chip, which is when the bytes go out. `room` on a
  // vCPU thread when receive() refused bytes and can take some again, by whatever the guest did to
  // make room. Both without a lock held.
  Uart16550(InterruptLine& line, Output output, Room room);

  // Sends what the guest wrote last and never looked after. Before the machine ends.
  void flush();

  // Any thread. Input from the line; returns how many bytes fitted. One does while the FIFOs are
  // off, and after the guest cleared them until it has read one: a driver that starts clears what
  // came before it, several times, and what waits outside then is not lost.
  std::size_t receive(std::span<const std::byte> bytes);

  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

  // While no vCPU runs. save() sends what was written; restore() raises no edge: that of a high
  // line is in the interrupt controller's state.
  UartState save();
  Result<void> restore(const UartState& state);

 private:
  std::uint8_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint8_t value);
  std::uint8_t interrupt_id() const;
  std::uint8_t modem_status() const;
  std::size_t receive_limit() const;
  // Whether room_ has to be called, without the lock.
  bool take_room();
  void update_line();
  // Takes out what waits to be sent, for output_ to be called without the lock.
  std::vector<std::byte> take_pending() { return std::exchange(pending_, {}); }

  InterruptLine& line_;
  const Output output_;
  const Room room_;

  std::mutex mutex_;  // guards all below
  std::deque<std::byte> received_;
  std::vector<std::byte> pending_;  // written by the guest, not sent yet
  bool refused_ = false;            // receive() had no room for all
  bool cleared_ = false;            // the receive FIFO was, and nothing was read since
  bool transmit_interrupt_ = false;
  bool line_high_ = false;
  bool fifos_ = false;
  std::uint8_t interrupt_enable_ = 0;
  std::uint8_t line_control_ = 0;
  std::uint8_t modem_control_ = 0;
  std::uint8_t line_errors_ = 0;
  std::uint8_t scratch_ = 0;
  std::uint16_t divisor_ = 12;  // 9600 baud
};

}  // namespace vmm
