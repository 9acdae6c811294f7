// What every container's machine is made of besides its image: a kernel, the initramfs with the
// agent and the kernel's modules, the monitor, and a formatted writable layer.
#pragma once

#include <string>

#include "src/base/result.h"

namespace vmm::engine {

struct MachineFiles {
  std::string kernel, initramfs;
  std::string append;  // words for the kernel, of the file `append` beside them; mostly none
};

// In $VMM_MACHINE if that is set; else in PREFIX/share/vmm/machine of an installed program, or
// guest-images/machine of a build directory. `kernel` replaces the kernel found, unless it is "".
// Error: one sentence with the place where they should be and what makes them.
Result<MachineFiles> find_machine_files(const std::string& kernel);

// The program `vmm`, which this one was started by or belongs to.
Result<std::string> find_monitor();

inline constexpr const char* kWritableSize = "64G";  // sparse: what is written counts

// A copy of a formatted, empty ext4 at `path`, synced: half of one would be in the way of every
// later start. The original is made once, below ROOT/machine.
Result<void> make_writable_layer(const std::string& root, const std::string& path);

}  // namespace vmm::engine
