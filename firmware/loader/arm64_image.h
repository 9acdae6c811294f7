// Arm64Image: a kernel for arm64 as Linux builds it (Documentation/arch/arm64/booting.rst, 4): the
// Image itself, compressed as a whole (Image.gz, Image.zst), or as the payload of an EFI
// application that unpacks itself (drivers/firmware/efi/libstub/zboot-header.S).
//
//   const auto kernel = TRY(load_arm64_kernel(path, memory, base,
//   PayloadCache::of_user("kernels")));
//   // entered at kernel.entry with the device tree's address in x0, MMU off
//
// What has to be unpacked is unpacked once and kept in the cache, so that no instruction of the
// guest is spent on it. Every error is one sentence that names the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "firmware/loader/decompress.h"
#include "firmware/loader/image_source.h"
#include "firmware/loader/payload_cache.h"
#include "src/base/mapping.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_address.h"
#include "src/hypervisor/memory/guest_memory.h"

namespace vmm::loader {

// What an Image is loaded relative to is a multiple of this.
constexpr std::uint64_t kArm64ImageAlignment = 2u << 20;

struct Arm64Image {
  std::uint64_t text_offset = 0;  // from the base to the Image
  std::uint64_t memory_size = 0;  // bytes that it uses at first, its bss included
};

// Refuses what is no Image, one from before Linux 3.17, which does not say its size, and
// big-endian ones.
Result<Arm64Image> parse_arm64_image(const ImageSource& source);

// The Image that `source` holds compressed; nothing: it is not compressed. Refuses compression by
// anything but gzip and zstd, and more than kMaxPayloadSize bytes.
Result<std::optional<Mapping>> unpack_arm64_image(const ImageSource& source);

struct LoadedArm64Kernel {
  GuestAddress entry;
  GuestAddress end;  // of the memory that it uses at first
};

// `memory` is fresh; `base`, in it, is a multiple of kArm64ImageAlignment.
Result<LoadedArm64Kernel> load_arm64_kernel(const std::string& path, const GuestMemory& memory,
                                            GuestAddress base, const PayloadCache& cache);

}  // namespace vmm::loader
