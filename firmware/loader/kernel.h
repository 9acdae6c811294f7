// From the path of a kernel to a guest that can be entered.
//
//   const auto kernel = TRY(load_kernel(path, memory, PayloadCache::of_user("kernels")));
//   // kernel.entry_kind says in which state a processor is to be at kernel.entry
//
// Stages: 1. the file is recognised by its first bytes; 2. of a bzImage, the vmlinux is taken from
// the cache or decompressed into it, so that no instruction of the guest is spent on that; 3. its
// segments are read straight into guest memory. A bzImage whose compression is not known here is
// loaded as it is and decompresses itself, which is slower.
//
// Every error is one sentence that names the file.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "firmware/loader/bzimage.h"
#include "firmware/loader/elf.h"
#include "firmware/loader/image_source.h"
#include "firmware/loader/payload_cache.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_address.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::loader {

enum class EntryKind : std::uint8_t {
  pvh,      // 32-bit, no paging, ebx at a struct hvm_start_info (Xen's docs/misc/pvh.pandoc)
  linux64,  // 64-bit, memory identity-mapped, rsi at a struct boot_params (boot.rst, "64-bit")
};

// Below it are the zero page, page tables and whatever else a machine puts there.
constexpr GuestAddress kLowestKernelAddress{1u << 20};

// A kernel file that has been opened and understood, not loaded.
struct KernelImage {
  std::string path;
  ImageSource source;  // of the ELF file, or of the bzImage when there is no `elf`
  std::optional<ElfImage> elf;
  std::optional<BzImage> bzimage;
  std::string remark;  // why a slower way is taken, for the log; else empty
};

struct LoadedKernel {
  EntryKind entry_kind = EntryKind::linux64;
  GuestAddress entry;
  GuestAddress end;  // of the memory that the kernel uses at first, its bss included
  std::vector<std::byte> setup_header;   // from offset 0x1f1 of the bzImage; empty without one
  std::uint64_t initrd_address_max = 0;  // of the last byte
  std::uint32_t command_line_max = 0;    // characters, without the NUL
  std::string remark;
};

// stat(2) of it. Refuses what is no regular file, or empty.
Result<struct stat> look_at_kernel(const std::string& path);

Result<KernelImage> open_kernel(const std::string& path, const PayloadCache& cache);
// `memory` is fresh, see load_elf.
Result<LoadedKernel> place_kernel(const KernelImage& image, const GuestMemory& memory);
// Both.
Result<LoadedKernel> load_kernel(const std::string& path, const GuestMemory& memory,
                                 const PayloadCache& cache);

}  // namespace vmm::loader
