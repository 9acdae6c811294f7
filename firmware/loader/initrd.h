// The initial RAM disk: a file, put as high as it may be, so that it is out of the kernel's way.
//
//   const auto initrd = TRY(load_initrd(path, memory, kernel.end, last, cache));
//
// One that is packed as a whole, by gzip or zstd, is unpacked on the host, once: the guest's kernel
// takes a plain archive, and spends no instruction on it. That costs memory until it is freed, so
// it is not done where it would take more than an eighth of what there is.
#pragma once

#include <cstdint>
#include <string>

#include "firmware/loader/payload_cache.h"
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
                                 GuestAddress lowest, GuestAddress last, const PayloadCache& cache);

}  // namespace vmm::loader
