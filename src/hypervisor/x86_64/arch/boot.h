// Puts a kernel and what it is told about its machine into guest memory.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "arch/vcpu.h"
#include "firmware/loader/initrd.h"
#include "firmware/loader/kernel.h"
#include "firmware/platform.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::arch {

// What of a guest comes from files, and where it lies.
struct Images {
  loader::LoadedKernel kernel;
  std::optional<loader::LoadedInitrd> initrd;
};

// Reads both into `memory`, which is fresh; `initrd` may be empty. It needs nothing of the machine
// but its memory, so that it may run beside the making of the rest. Errors name the file.
Result<Images> load_images(const std::string& kernel, const std::string& initrd,
                           const GuestMemory& memory);

// Writes what the kernel is told at its start. `command_line` is complete.
Result<EntryPoint> prepare_entry(const Images& images, const std::string& command_line,
                                 const Platform& platform, const GuestMemory& memory);

// Gives the machine a number that no other has: the guest's kernel mixes it into its random
// numbers, and a change of it says that the machine was copied (VMGENID).
Result<void> write_generation_id(const GuestMemory& memory);

// The kernels that are booted, for people.
inline constexpr const char* kKernelKinds = "bzImage or vmlinux";

// What makes a kernel on this machine quick and quiet; a user's words come behind.
std::string default_command_line(bool serial);

// The option that writes what prepare_entry() told the guest of its machine to a file, and those
// bytes once more, out of its memory: all ACPI tables, as they lie there.
inline constexpr const char* kTablesOption = "dump-acpi";
Result<std::vector<std::byte>> firmware_tables(const GuestMemory& memory);

}  // namespace vmm::arch
