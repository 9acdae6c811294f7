#include "devices/legacy/pl031.h"

namespace vmm {
namespace {

// Registers (chapter 3).
constexpr std::uint64_t kData = 0x000;
constexpr std::uint64_t kMatch = 0x004;
constexpr std::uint64_t kLoad = 0x008;
constexpr std::uint64_t kControl = 0x00c;
constexpr std::uint64_t kInterruptMask = 0x010;

constexpr std::uint32_t kStarted = 1;
constexpr std::uint32_t kPart = 0x031;
constexpr std::uint32_t kRevision = 0;

}  // namespace

Pl031::Pl031(std::function<std::time_t()> now) : now_(std::move(now)) {}

std::uint64_t Pl031::read(std::uint64_t offset, unsigned /*size*/) {
  if (offset >= primecell::kIdentity) return primecell::identity(offset, kPart, kRevision);
  std::lock_guard lock(mutex_);
  switch (offset) {
    case kData:
      // Modulo 2^32, whatever a saved state says.
      return static_cast<std::uint32_t>(now_()) + static_cast<std::uint32_t>(state_.offset);
    case kMatch:
      return state_.match;
    case kLoad:
      return state_.load;
    case kControl:
      return kStarted;  // it never stops
    case kInterruptMask:
      return state_.interrupt_mask;
    default:
      return 0;  // no interrupt is ever raised
  }
}

void Pl031::write(std::uint64_t offset, unsigned /*size*/, std::uint64_t value) {
  const auto word = static_cast<std::uint32_t>(value);
  std::lock_guard lock(mutex_);
  switch (offset) {
    case kMatch:
      state_.match = word;
      return;
    case kLoad:
      state_.load = word;
      state_.offset = std::int64_t{word} - now_();
      return;
    case kInterruptMask:
      state_.interrupt_mask = word & 1;
      return;
    default:
      return;
  }
}

Pl031State Pl031::save() {
  std::lock_guard lock(mutex_);
  return state_;
}

void Pl031::restore(const Pl031State& state) {
  std::lock_guard lock(mutex_);
  state_ = state;
}

}  // namespace vmm
