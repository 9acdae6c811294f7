// The initial RAM disk: a file, put as high as it may be, so that it is out of the kernel's way.
//
//   const auto initrd = TRY(load_initrd(path, memory, kernel.end,
//   GuestAddress{kernel.initrd_address_max}));
#pragma once

#include <cstdint>
#include <string>

#include "src/base/result.h"
#include "src/hypervisor/memory/guest_address.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::loader {

struct LoadedInitrd {
  GuestAddress address;    // page-aligned
  std::uint64_t size = 0;  // bytes
};

// Reads it into the highest pages that end at `last` (the address of the last byte that it may
// have) or below, in the region of memory that holds `lowest`, not below `lowest`. The error names
// the file, and the sizes when it does not fit.
Result<LoadedInitrd> load_initrd(const std::string& path, const GuestMemory& memory,
                                 GuestAddress lowest, GuestAddress last);

}  // namespace vmm::loader
