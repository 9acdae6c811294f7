// The flattened device tree of a machine, written from its description (Devicetree Specification
// 0.4; the bindings are those of Linux, Documentation/devicetree/bindings).
//
//   const auto tree = TRY(fdt::build_tree(platform, {.ram = ranges, .command_line = "quiet"}));
//   TRY(memory.write_bytes(address, tree));
//
// The same description gives the same bytes, always.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "firmware/platform.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::fdt {

// What the tree says beside the machine: the node /chosen, and the memory.
struct Start {
  std::vector<MemoryRange> ram;  // ascending
  std::string command_line;
  std::optional<MemoryRange> initrd;   // size in bytes, any
  std::vector<std::byte> random_seed;  // for the kernel's random numbers and its own address; or
                                       // none, 40 bytes are the most that is of use
};

// A kernel takes no larger tree (Linux, Documentation/arch/arm64/booting.rst, 2).
constexpr std::size_t kMaxTreeSize = 2u << 20;

// Refuses descriptions that no tree can say: no processor, no interrupt controller, a device with a
// node but without registers, a console that is no device, and what exceeds kMaxTreeSize.
Result<std::vector<std::byte>> build_tree(const Platform& platform, const Start& start);

// Bytes of the tree that `bytes` begin with; all of them when it says more, 0 when there is none.
std::size_t tree_size(std::span<const std::byte> bytes);

}  // namespace vmm::fdt
