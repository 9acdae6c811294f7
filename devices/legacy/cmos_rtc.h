// CmosRtc: the clock of a PC at ports 0x70 and 0x71 (Motorola MC146818A), in UTC.
//
// The time is the host's, plus what the guest set. Alarms and the periodic interrupt are not
// there; the guest's kernel has better timers.
#pragma once

#include <array>
#include <cstdint>
#include <ctime>
#include <functional>
#include <mutex>

#include "devices/legacy/state.h"
#include "src/base/result.h"
#include "src/hypervisor/bus/io_handler.h"

namespace vmm {

class CmosRtc : public IoHandler {
 public:
  static constexpr std::uint64_t kSize = 2;  // index and data

  // `now`: seconds since 1970, UTC.
  explicit CmosRtc(std::function<std::time_t()> now);

  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

  // A restored clock shows the time of its new host.
  RtcState save();
  Result<void> restore(const RtcState& state);

 private:
  std::uint8_t read_time(unsigned index) const;
  void write_time(unsigned index, std::uint8_t value);

  const std::function<std::time_t()> now_;
  std::mutex mutex_;
  std::int64_t offset_ = 0;  // seconds that the guest set its clock ahead of the host's
  std::uint8_t index_ = 0;
  std::array<std::uint8_t, 128> memory_{};
};

}  // namespace vmm
