#include "devices/legacy/cmos_rtc.h"

#include <algorithm>

namespace vmm {
namespace {

// Register numbers (MC146818A, figure 10; the century is where PCs keep it, FADT names it).
enum Register : unsigned {
  kSeconds = 0,
  kMinutes = 2,
  kHours = 4,
  kWeekday = 6,
  kDay = 7,
  kMonth = 8,
  kYear = 9,
  kStatusA = 10,
  kStatusB = 11,
  kStatusC = 12,
  kStatusD = 13,
  kCentury = 0x32,
};

constexpr std::uint8_t kDividerRunning = 0x26;  // 32768 Hz, no update in progress
constexpr std::uint8_t kBinary = 0x04;
constexpr std::uint8_t k24Hours = 0x02;
constexpr std::uint8_t kValid = 0x80;

// Seconds, some 30,000 years: a guest that turns the century on and on, and a state that somebody
// made up, stay within what a calendar can be computed of.
constexpr std::int64_t kMostOffset = 1'000'000'000'000;
std::int64_t bounded(std::int64_t offset) { return std::clamp(offset, -kMostOffset, kMostOffset); }

std::uint8_t to_bcd(int value) { return static_cast<std::uint8_t>(value / 10 << 4 | value % 10); }
int from_bcd(std::uint8_t value) { return (value >> 4) * 10 + (value & 15); }

}  // namespace

CmosRtc::CmosRtc(std::function<std::time_t()> now) : now_(std::move(now)) {
  memory_[kStatusA] = kDividerRunning;
  memory_[kStatusB] = k24Hours;
}

std::uint64_t CmosRtc::read(std::uint64_t offset, unsigned /*size*/) {
  std::lock_guard lock(mutex_);
  if (offset == 0) return 0xff;  // the index register is write-only
  switch (index_) {
    case kSeconds:
    case kMinutes:
    case kHours:
    case kWeekday:
    case kDay:
    case kMonth:
    case kYear:
    case kCentury:
      return read_time(index_);
    case kStatusC:
      return 0;  // no interrupt is pending
    case kStatusD:
      return kValid;
    default:
      return memory_[index_];
  }
}

void CmosRtc::write(std::uint64_t offset, unsigned /*size*/, std::uint64_t value) {
  std::lock_guard lock(mutex_);
  const auto byte = static_cast<std::uint8_t>(value);
  if (offset == 0) {
    index_ = byte & 0x7f;
    return;
  }
  switch (index_) {
    case kSeconds:
    case kMinutes:
    case kHours:
    case kDay:
    case kMonth:
    case kYear:
    case kCentury:
      write_time(index_, byte);
      break;
    case kWeekday:
    case kStatusC:
    case kStatusD:
      break;
    case kStatusA:
      memory_[kStatusA] = byte & 0x7f;  // never in the middle of an update
      break;
    default:
      memory_[index_] = byte;
  }
}

std::uint8_t CmosRtc::read_time(unsigned index) const {
  const std::time_t time = now_() + offset_;
  std::tm parts{};
  gmtime_r(&time, &parts);
  const auto encode = [this](int value) {
    return (memory_[kStatusB] & kBinary) != 0 ? static_cast<std::uint8_t>(value) : to_bcd(value);
  };
  switch (index) {
    case kSeconds:
      return encode(parts.tm_sec);
    case kMinutes:
      return encode(parts.tm_min);
    case kHours: {
      if ((memory_[kStatusB] & k24Hours) != 0) return encode(parts.tm_hour);
      const int hour = parts.tm_hour % 12 == 0 ? 12 : parts.tm_hour % 12;
      return static_cast<std::uint8_t>(encode(hour) | (parts.tm_hour >= 12 ? 0x80 : 0));
    }
    case kWeekday:
      return encode(parts.tm_wday + 1);
    case kDay:
      return encode(parts.tm_mday);
    case kMonth:
      return encode(parts.tm_mon + 1);
    case kYear:
      return encode(parts.tm_year % 100);
    default:
      return to_bcd((parts.tm_year + 1900) / 100 % 100);
  }
}

void CmosRtc::write_time(unsigned index, std::uint8_t value) {
  const std::time_t before = now_() + offset_;
  std::tm parts{};
  gmtime_r(&before, &parts);
  const bool binary = (memory_[kStatusB] & kBinary) != 0;
  const int number = binary ? value : from_bcd(value);
  switch (index) {
    case kSeconds:
      parts.tm_sec = number;
      break;
    case kMinutes:
      parts.tm_min = number;
      break;
    case kHours:
      if ((memory_[kStatusB] & k24Hours) != 0) {
        parts.tm_hour = number;
      } else {
        const auto low = static_cast<std::uint8_t>(value & 0x7f);
        parts.tm_hour = (binary ? low : from_bcd(low)) % 12 + ((value & 0x80) != 0 ? 12 : 0);
      }
      break;
    case kDay:
      parts.tm_mday = number;
      break;
    case kMonth:
      parts.tm_mon = number - 1;
      break;
    case kYear:
      parts.tm_year = (parts.tm_year + 1900) / 100 * 100 + number - 1900;
      break;
    default:
      parts.tm_year = from_bcd(value) * 100 + parts.tm_year % 100 - 1900;
  }
  offset_ = bounded(offset_ + timegm(&parts) - before);
}

RtcState CmosRtc::save() {
  std::lock_guard lock(mutex_);
  return {offset_, index_, {memory_.begin(), memory_.end()}};
}

Result<void> CmosRtc::restore(const RtcState& state) {
  std::lock_guard lock(mutex_);
  if (state.memory.size() != memory_.size() || state.index >= memory_.size()) {
    return fail("a clock of {} bytes at index {}", state.memory.size(), state.index);
  }
  offset_ = bounded(state.offset);
  index_ = state.index;
  std::ranges::copy(state.memory, memory_.begin());
  return {};
}

}  // namespace vmm
