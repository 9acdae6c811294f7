// Pl031: the PrimeCell real time clock (Arm DDI 0224): seconds since 1970, UTC.
//
// The time is the host's, plus what the guest set. Its alarm is not there: the interrupt is not
// connected, and the guest's kernel has better timers.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <mutex>

#include "devices/legacy/primecell.h"
#include "devices/legacy/state.h"
#include "src/hypervisor/bus/io_handler.h"

namespace vmm {

class Pl031 : public IoHandler {
 public:
  static constexpr std::uint64_t kSize = primecell::kSize;

  // `now`: seconds since 1970, UTC.
  explicit Pl031(std::function<std::time_t()> now);

  std::uint64_t read(std::uint64_t offset, unsigned size) override;
  void write(std::uint64_t offset, unsigned size, std::uint64_t value) override;

  // While no vCPU runs. A restored clock shows the time of its new host.
  Pl031State save();
  void restore(const Pl031State& state);

 private:
  const std::function<std::time_t()> now_;
  std::mutex mutex_;  // guards state_
  Pl031State state_;
};

}  // namespace vmm
