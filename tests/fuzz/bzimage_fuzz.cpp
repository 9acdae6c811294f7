// Any bytes as a bzImage: its header, its payload, and the ELF file in it. Any bytes as a
// compressed stream too, as a mutated payload rarely keeps its header.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "firmware/loader/bzimage.h"
#include "firmware/loader/elf.h"

namespace {

constexpr std::uint64_t kLargest = 1u << 20;  // more is only slower

void decompress_all(std::span<const std::byte> bytes) {
  using vmm::loader::Compression;
  for (Compression kind :
       {Compression::gzip, Compression::xz, Compression::lz4, Compression::zstd}) {
    if (vmm::loader::detect_compression(bytes) == kind) {
      (void)vmm::loader::decompress(kind, bytes, 4096);  // most fail, none may write too much
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  decompress_all(bytes);
  const auto source = vmm::loader::ImageSource::borrowed(bytes);
  const auto image = vmm::loader::parse_bzimage(source);
  if (!image) return 0;
  if (image->payload_offset + image->payload_size > size) std::abort();
  if (image->uncompressed_size > kLargest) return 0;
  const auto payload = vmm::loader::decompress_payload(*image, source);
  if (!payload) return 0;
  if (payload->size() != image->uncompressed_size) std::abort();
  (void)vmm::loader::parse_elf(vmm::loader::ImageSource::borrowed(payload->bytes()));
  return 0;
}
