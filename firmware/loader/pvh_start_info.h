// struct hvm_start_info, version 1 (xen/include/public/arch-x86/hvm/start_info.h), for the PVH
// entry, which takes its address in ebx.
//
//   TRY(write_pvh_start_info(boot, layout, memory));
//   registers.rbx = layout.info.value;
#pragma once

#include "firmware/loader/linux_boot.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::loader {

// Fills the page at layout.info, which is below 4 GiB, with the structure, its module list and its
// memory map, and writes the command line.
Result<void> write_pvh_start_info(const LinuxBoot& boot, const BootLayout& layout,
                                  const GuestMemory& memory);

}  // namespace vmm::loader
