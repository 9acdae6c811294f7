// Puts a kernel and what it is told about its machine into guest memory.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "arch/vcpu.h"
#include "firmware/platform.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::arch {

struct BootSource {
  std::string kernel;        // path
  std::string initrd;        // path, or empty
  std::string command_line;  // complete
};

// `memory` is fresh. Errors name the file or the value.
Result<EntryPoint> load_guest(const BootSource& source, const Platform& platform,
                              const GuestMemory& memory);

// Gives the machine a number that no other has: the guest's kernel mixes it into its random
// numbers, and a change of it says that the machine was copied (VMGENID).
Result<void> write_generation_id(const GuestMemory& memory);

// What makes a kernel on this machine quick and quiet; a user's words come behind.
std::string default_command_line(bool serial);

// The option that writes what load_guest() told the guest of its machine to a file, and those bytes
// once more, out of its memory: the device tree.
inline constexpr const char* kTablesOption = "dump-fdt";
Result<std::vector<std::byte>> firmware_tables(const GuestMemory& memory);

}  // namespace vmm::arch
