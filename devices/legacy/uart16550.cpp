#include "devices/legacy/uart16550.h"

#include <algorithm>

#include "devices/legacy/receive_limit.h"
#include "devices/legacy/uart_registers.h"

namespace vmm {
namespace {

constexpr std::size_t kFifoSize = 16;

}  // namespace

Uart16550::Uart16550(InterruptLine& line, Output output, Room room)
    : line_(line), output_(std::move(output)), room_(std::move(room)) {}

std::size_t Uart16550::receive(std::span<const std::byte> bytes) {
  std::lock_guard lock(mutex_);
  const std::size_t limit = receive_limit();
  // More than the limit is there when the guest turned the FIFOs off.
  const std::size_t room = limit - std::min(limit, received_.size());
  const std::size_t taken = std::min(bytes.size(), room);
  received_.insert(received_.end(), bytes.begin(),
                   bytes.begin() + static_cast<std::ptrdiff_t>(taken));
  refused_ = taken < bytes.size();
  update_line();
  return taken;
}

void Uart16550::flush() {
  std::vector<std::byte> sent;
  {
    std::lock_guard lock(mutex_);
    sent = take_pending();
  }
  if (!sent.empty()) output_(sent);
}

std::uint64_t Uart16550::read(std::uint64_t offset, unsigned /*size*/) {
  bool room;
  std::uint8_t value;
  std::vector<std::byte> sent;
  {
    std::lock_guard lock(mutex_);
    value = read_register(offset);
    update_line();
    room = take_room();
    sent = take_pending();
  }
  // Outside of the lock: it may block.
  if (!sent.empty()) output_(sent);
  if (room) room_();
  return value;
}

void Uart16550::write(std::uint64_t offset, unsigned /*size*/, std::uint64_t value) {
  bool room;
  std::vector<std::byte> sent;
  {
    std::lock_guard lock(mutex_);
    write_register(offset, static_cast<std::uint8_t>(value));
    update_line();
    room = take_room();
    if (offset != uart::kData || pending_.size() >= kFifoSize) sent = take_pending();
  }
  if (!sent.empty()) output_(sent);
  if (room) room_();
}

std::size_t Uart16550::receive_limit() const { return fifos_ && !cleared_ ? kReceiveLimit : 1; }

// Whenever nothing is left to read: the guest may never look at an empty chip again.
bool Uart16550::take_room() { return received_.empty() && std::exchange(refused_, false); }

std::uint8_t Uart16550::read_register(std::uint64_t offset) {
  const bool divisor = (line_control_ & uart::kLcrDivisorLatch) != 0;
  switch (offset) {
    case uart::kData: {
      if (divisor) return static_cast<std::uint8_t>(divisor_);
      if (received_.empty()) return 0;
      const auto byte = static_cast<std::uint8_t>(received_.front());
      received_.pop_front();
      cleared_ = false;
      return byte;
    }
    case uart::kInterruptEnable:
      return divisor ? static_cast<std::uint8_t>(divisor_ >> 8) : interrupt_enable_;
    case uart::kInterruptId: {
      const std::uint8_t id = interrupt_id();
      // Reading it acknowledges the transmitter's interrupt, and that one alone.
      if (id == uart::kIirTransmitEmpty) transmit_interrupt_ = false;
      return static_cast<std::uint8_t>(id | (fifos_ ? uart::kIirFifos : 0));
    }
    case uart::kLineControl:
      return line_control_;
    case uart::kModemControl:
      return modem_control_;
    case uart::kLineStatus: {
      std::uint8_t status = uart::kLsrTransmitEmpty | uart::kLsrIdle;
      if (!received_.empty()) status |= uart::kLsrDataReady;
      status |= std::exchange(line_errors_, std::uint8_t{0});
      return status;
    }
    case uart::kModemStatus:
      return modem_status();
    case uart::kScratch:
      return scratch_;
    default:
      return 0xff;
  }
}

void Uart16550::write_register(std::uint64_t offset, std::uint8_t value) {
  const bool divisor = (line_control_ & uart::kLcrDivisorLatch) != 0;
  switch (offset) {
    case uart::kData:
      if (divisor) {
        divisor_ = static_cast<std::uint16_t>((divisor_ & 0xff00) | value);
        return;
      }
      transmit_interrupt_ = true;  // it is empty again at once
      if ((modem_control_ & uart::kMcrLoopback) == 0) {
        pending_.push_back(std::byte{value});
      } else if (received_.size() < kReceiveLimit) {
        received_.push_back(std::byte{value});
      } else {
        line_errors_ |= uart::kLsrOverrun;
      }
      return;
    case uart::kInterruptEnable:
      if (divisor) {
        divisor_ = static_cast<std::uint16_t>((divisor_ & 0xff) | value << 8);
        return;
      }
      // Enabling the transmitter's interrupt while it is empty raises it at once.
      if ((value & ~interrupt_enable_ & uart::kIerTransmitEmpty) != 0) transmit_interrupt_ = true;
      interrupt_enable_ = value & 0x0f;
      return;
    case uart::kInterruptId:  // FCR
      fifos_ = (value & uart::kFcrEnable) != 0;
      if ((value & uart::kFcrClearReceive) != 0) {
        received_.clear();
        cleared_ = true;
      }
      return;
    case uart::kLineControl:
      line_control_ = value;
      return;
    case uart::kModemControl:
      modem_control_ = value & 0x1f;
      return;
    case uart::kScratch:
      scratch_ = value;
      return;
    default:
      return;
  }
}

std::uint8_t Uart16550::interrupt_id() const {
  if ((interrupt_enable_ & uart::kIerLineStatus) != 0 && line_errors_ != 0) {
    return uart::kIirLineStatus;
  }
  if ((interrupt_enable_ & uart::kIerReceived) != 0 && !received_.empty()) {
    return uart::kIirReceived;
  }
  if ((interrupt_enable_ & uart::kIerTransmitEmpty) != 0 && transmit_interrupt_) {
    return uart::kIirTransmitEmpty;
  }
  return uart::kIirNone;
}

std::uint8_t Uart16550::modem_status() const {
  if ((modem_control_ & uart::kMcrLoopback) == 0) {
    return uart::kMsrCts | uart::kMsrDsr | uart::kMsrCarrier;
  }
  // In loopback the four outputs are the four inputs.
  std::uint8_t status = 0;
  if ((modem_control_ & uart::kMcrRts) != 0) status |= uart::kMsrCts;
  if ((modem_control_ & uart::kMcrDtr) != 0) status |= uart::kMsrDsr;
  if ((modem_control_ & uart::kMcrOut1) != 0) status |= uart::kMsrRing;
  if ((modem_control_ & uart::kMcrOut2) != 0) status |= uart::kMsrCarrier;
  return status;
}

void Uart16550::update_line() {
  // OUT2 gates the interrupt on a PC, but not all guests set it: QEMU ignores it, and so do we.
  const bool high = interrupt_id() != uart::kIirNone;
  if (high == line_high_) return;
  line_high_ = high;
  line_.set_level(high);
}

UartState Uart16550::save() {
  flush();
  std::lock_guard lock(mutex_);
  return {.received = {received_.begin(), received_.end()},
          .transmit_interrupt = transmit_interrupt_,
          .line_high = line_high_,
          .fifos = fifos_,
          .interrupt_enable = interrupt_enable_,
          .line_control = line_control_,
          .modem_control = modem_control_,
          .line_errors = line_errors_,
          .scratch = scratch_,
          .divisor = divisor_};
}

Result<void> Uart16550::restore(const UartState& state) {
  if (state.received.size() > kReceiveLimit) {
    return fail("{} received bytes, at most {} are kept", state.received.size(), kReceiveLimit);
  }
  std::lock_guard lock(mutex_);
  received_.assign(state.received.begin(), state.received.end());
  transmit_interrupt_ = state.transmit_interrupt;
  line_high_ = state.line_high;
  fifos_ = state.fifos;
  interrupt_enable_ = state.interrupt_enable;
  line_control_ = state.line_control;
  modem_control_ = state.modem_control;
  line_errors_ = state.line_errors;
  scratch_ = state.scratch;
  divisor_ = state.divisor;
  return {};
}

}  // namespace vmm
