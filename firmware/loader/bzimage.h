// BzImage: the header of a kernel as distributions ship it (Documentation/arch/x86/boot.rst of
// Linux), and the vmlinux that is compressed inside.
//
//   const auto image = TRY(parse_bzimage(source));
//   if (is_supported(image.compression)) {
//     const Mapping vmlinux = TRY(decompress_payload(image, source));   // relocations may follow
//     it
//   }
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "firmware/loader/decompress.h"
#include "firmware/loader/image_source.h"
#include "src/base/mapping.h"
#include "src/base/result.h"

namespace vmm::loader {

// Where the setup header is, in the file and in the zero page; both begin with it.
constexpr std::size_t kSetupHeaderOffset = 0x1f1;
// It ends where the jump over it leads to, but here at the latest (the next field of boot_params).
constexpr std::size_t kSetupHeaderLimit = 0x290;

// No kernel is larger: one with every debugging feature of Linux 6.x takes about 200 MiB.
constexpr std::uint64_t kMaxPayloadSize = 512u << 20;

struct BzImage {
  std::uint16_t version = 0;  // of the protocol, 0x020f for 2.15
  bool entry64 = false;       // has the 64-bit entry at 0x200 of the code (XLF_KERNEL_64)
  bool relocatable = false;
  std::uint64_t code_offset = 0;  // in the file, of the protected-mode code
  std::uint64_t code_size = 0;
  std::uint64_t preferred_address = 0;
  std::uint32_t alignment = 0;
  std::uint32_t init_size = 0;  // bytes from the start of the code that the kernel uses at first
  std::uint32_t initrd_address_max = 0;  // of the last byte
  std::uint32_t command_line_max = 0;    // characters, without the NUL
  Compression compression = Compression::unknown;
  std::uint64_t payload_offset = 0;  // in the file
  std::uint64_t payload_size = 0;    // with the four bytes that say the uncompressed size
  std::uint64_t uncompressed_size = 0;
  std::vector<std::byte> setup_header;  // the bytes from kSetupHeaderOffset on
};

// Whether the first bytes of a file (0x206 of them) say "Linux/x86 boot protocol".
bool is_bzimage(std::span<const std::byte> head);

// Refuses what is truncated, older than protocol 2.08, or not loaded high.
Result<BzImage> parse_bzimage(const ImageSource& source);

// The fields that a zero page needs, of a setup header alone (which has been parsed before).
BzImage parse_setup_header(std::span<const std::byte> setup_header);

// At most kMaxPayloadSize bytes.
Result<Mapping> decompress_payload(const BzImage& image, const ImageSource& source);

}  // namespace vmm::loader
