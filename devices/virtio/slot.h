// Slot: a device whose connection to the host changes while its machine is there: it may be
// connected to nothing, and to something else later.
//
//   auto change = TRY(device.prepare(config));   // opens the file; the guest sees nothing of it
//   TRY(transport.change(*change));              // what is in flight finished; then it is made
//   change.reset();                              // closes what was there before
#pragma once

#include <cstdint>

#include "src/base/result.h"

namespace vmm::virtio {

// Of one device, which outlives it.
class SlotChange {
 public:
  virtual ~SlotChange() = default;
  // Whether a driver that uses these features can go on after it. Before make(), by the same
  // thread; the device goes on meanwhile.
  virtual Result<void> check(std::uint64_t /*features*/) const { return {}; }
  // Once, while the device is suspended or was never activated. On an error the device is as it
  // was.
  Result<void> make() {
    auto made = do_make();
    is_made_ = made.has_value();
    return made;
  }
  bool is_made() const { return is_made_; }

 private:
  virtual Result<void> do_make() = 0;
  bool is_made_ = false;
};

}  // namespace vmm::virtio
