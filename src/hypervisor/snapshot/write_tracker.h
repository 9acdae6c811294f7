// Which pages of a machine's memory were written since a moment: by vCPUs, devices, or the kernel
// for them. Linux tells it in one of two ways, both of which pagemap shows (page_map.h):
//
// - soft-dirty bits (CONFIG_MEM_SOFT_DIRTY, which some architectures lack), or
// - write protection that the first write takes off again, nobody being asked: userfaultfd with
//   UFFD_FEATURE_WP_ASYNC (since 6.7 or a little later, by architecture). Needs no privilege.
//
//   WriteTracker tracker;
//   const auto tracking = TRY(tracker.restart(memory));    // nothing is written yet
//   const auto pages = TRY(written_pages(memory, tracking, parent_data));
#pragma once

#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/memory/guest_memory.h"
#include "src/hypervisor/snapshot/memory_layer.h"

namespace vmm::snapshot {

class WriteTracker {
 public:
  // From now on, while the machine is suspended. The second form takes one way alone. Error: the
  // host's kernel does not track.
  Result<Tracking> restart(const GuestMemory& memory);
  Result<void> restart(const GuestMemory& memory, Tracking how);

 private:
  Result<void> protect(const GuestMemory& memory);

  UniqueFd protection_;  // a userfaultfd; memory is unprotected when it is closed
};

}  // namespace vmm::snapshot
