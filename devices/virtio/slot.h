// Slot: a device whose connection to the host changes while its machine is there: it may be
// connected to nothing, and to something else later.
//
//   auto change = TRY(device.prepare(config));   // opens the file; the guest sees nothing of it
//   TRY(transport.change(*change));              // what is in flight finished; then it is made
//   change.reset();                              // closes what was there before
#pragma once

#include "src/base/result.h"

namespace vmm::virtio {

// Of one device, which outlives it.
class SlotChange {
 public:
  virtual ~SlotChange() = default;
  // Once, while the device is suspended or was never activated. On an error the device is as it
  // was, or connected to nothing: the message says so.
  virtual Result<void> make() = 0;
};

}  // namespace vmm::virtio
