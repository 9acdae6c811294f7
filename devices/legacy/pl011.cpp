#include "devices/legacy/pl011.h"

#include <algorithm>

#include "devices/legacy/pl011_registers.h"
#include "devices/legacy/receive_limit.h"

namespace vmm {
namespace {

constexpr std::size_t kSendLimit = 64;

}  // namespace

Pl011::Pl011(InterruptLine& line, Output output, Room room)
    : line_(line),
      output_(std::move(output)),
      room_(std::move(room)),
      control_(pl011::kControlTransmit | pl011::kControlReceive),
      fifo_levels_(0x12) {}

std::size_t Pl011::receive(std::span<const std::byte> bytes) {
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

void Pl011::flush() {
  std::vector<std::byte> sent;
  {
    std::lock_guard lock(mutex_);
    sent = take_pending();
  }
  if (!sent.empty()) output_(sent);
}

std::uint64_t Pl011::read(std::uint64_t offset, unsigned /*size*/) {
  bool room;
  std::uint32_t value;
  std::vector<std::byte> sent;
  {
    std::lock_guard lock(mutex_);
    value = read_register(offset);
    update_line();
    room = take_room();
    // A driver looks at the flags before each byte: only a second look says that it waits.
    if (offset != pl011::kFlags || !std::exchange(wrote_, false)) sent = take_pending();
  }
  // Outside of the lock: it may block.
  if (!sent.empty()) output_(sent);
  if (room) room_();
  return value;
}

void Pl011::write(std::uint64_t offset, unsigned /*size*/, std::uint64_t value) {
  std::vector<std::byte> sent;
  {
    std::lock_guard lock(mutex_);
    write_register(offset, static_cast<std::uint32_t>(value));
    update_line();
    wrote_ = offset == pl011::kData;
    const bool line_ends = !pending_.empty() && pending_.back() == std::byte{'\n'};
    if (!wrote_ || line_ends || pending_.size() >= kSendLimit) sent = take_pending();
  }
  if (!sent.empty()) output_(sent);
}

std::size_t Pl011::receive_limit() const {
  return (line_control_ & pl011::kLineFifos) != 0 ? kReceiveLimit : 1;
}

std::uint32_t Pl011::read_register(std::uint64_t offset) {
  if (offset >= primecell::kIdentity) {
    return primecell::identity(offset, pl011::kPart, pl011::kRevision);
  }
  switch (offset) {
    case pl011::kData: {
      if (received_.empty()) return 0;
      const auto byte = static_cast<std::uint32_t>(received_.front());
      received_.pop_front();
      return byte;
    }
    case pl011::kFlags: {
      std::uint32_t flags = pl011::kFlagClearToSend | pl011::kFlagDataSetReady |
                            pl011::kFlagCarrier | pl011::kFlagTransmitEmpty;
      if (received_.empty()) flags |= pl011::kFlagReceiveEmpty;
      if (received_.size() >= receive_limit()) flags |= pl011::kFlagReceiveFull;
      return flags;
    }
    case pl011::kIntegerDivisor:
      return integer_divisor_;
    case pl011::kFractionDivisor:
      return fraction_divisor_;
    case pl011::kLineControl:
      return line_control_;
    case pl011::kControl:
      return control_;
    case pl011::kFifoLevels:
      return fifo_levels_;
    case pl011::kInterruptMask:
      return interrupt_mask_;
    case pl011::kRawInterrupts:
      return interrupts_;
    case pl011::kInterrupts:
      return interrupts_ & interrupt_mask_;
    default:
      return 0;  // reserved and the DMA's: read as zero
  }
}

void Pl011::write_register(std::uint64_t offset, std::uint32_t value) {
  switch (offset) {
    case pl011::kData:
      send_byte(static_cast<std::uint8_t>(value));
      return;
    case pl011::kIntegerDivisor:
      integer_divisor_ = static_cast<std::uint16_t>(value);
      return;
    case pl011::kFractionDivisor:
      fraction_divisor_ = static_cast<std::uint16_t>(value & 0x3f);
      return;
    case pl011::kLineControl:
      line_control_ = static_cast<std::uint16_t>(value & 0xff);
      return;
    case pl011::kControl:
      control_ = static_cast<std::uint16_t>(value);
      return;
    case pl011::kFifoLevels:
      fifo_levels_ = static_cast<std::uint16_t>(value & 0x3f);
      return;
    case pl011::kInterruptMask:
      interrupt_mask_ = static_cast<std::uint16_t>(value & pl011::kAllInterrupts);
      return;
    case pl011::kInterruptClear:
      interrupts_ = static_cast<std::uint16_t>(interrupts_ & ~value);
      return;
    default:
      return;
  }
}

void Pl011::send_byte(std::uint8_t value) {
  if ((control_ & pl011::kControlLoopback) == 0) {
    pending_.push_back(std::byte{value});
  } else if (received_.size() < kReceiveLimit) {
    received_.push_back(std::byte{value});
  } else {
    interrupts_ |= pl011::kOverrun;
  }
  interrupts_ |= pl011::kTransmitted;  // the FIFO has passed its level again at once
}

void Pl011::update_line() {
  constexpr std::uint16_t kHasData = pl011::kReceived | pl011::kReceiveTimeout;
  interrupts_ = static_cast<std::uint16_t>(interrupts_ & ~kHasData);
  if (!received_.empty()) interrupts_ |= kHasData;
  const bool high = (interrupts_ & interrupt_mask_) != 0;
  if (high == line_high_) return;
  line_high_ = high;
  line_.set_level(high);
}

Pl011State Pl011::save() {
  flush();
  std::lock_guard lock(mutex_);
  return {.received = {received_.begin(), received_.end()},
          .line_high = line_high_,
          .integer_divisor = integer_divisor_,
          .fraction_divisor = fraction_divisor_,
          .line_control = line_control_,
          .control = control_,
          .fifo_levels = fifo_levels_,
          .interrupt_mask = interrupt_mask_,
          .interrupts = interrupts_};
}

Result<void> Pl011::restore(const Pl011State& state) {
  if (state.received.size() > kReceiveLimit) {
    return fail("{} received bytes, at most {} are kept", state.received.size(), kReceiveLimit);
  }
  std::lock_guard lock(mutex_);
  received_.assign(state.received.begin(), state.received.end());
  line_high_ = state.line_high;
  integer_divisor_ = state.integer_divisor;
  fraction_divisor_ = state.fraction_divisor;
  line_control_ = state.line_control;
  control_ = state.control;
  fifo_levels_ = state.fifo_levels;
  interrupt_mask_ = state.interrupt_mask;
  interrupts_ = state.interrupts;
  return {};
}

}  // namespace vmm
