// The zero page: struct boot_params of Linux/x86 (Documentation/arch/x86/zero-page.rst), for the
// 64-bit entry, which takes its address in rsi.
//
//   TRY(write_boot_params(boot, layout, memory));
//   registers.rsi = layout.info.value;
#pragma once

#include "firmware/loader/linux_boot.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::loader {

// Fills the page at layout.info and writes the command line.
Result<void> write_boot_params(const LinuxBoot& boot, const BootLayout& layout,
                               const GuestMemory& memory);

}  // namespace vmm::loader
