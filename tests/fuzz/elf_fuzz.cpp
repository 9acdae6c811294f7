// Any bytes as an ELF kernel, parsed and loaded into a small guest.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "firmware/loader/elf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto memory = [] {
    const vmm::MemoryRange range{vmm::GuestAddress{0}, 4u << 20};
    return std::move(*vmm::GuestMemory::create(std::span(&range, 1)));
  }();
  const auto source = vmm::loader::ImageSource::borrowed(std::as_bytes(std::span(data, size)));
  const auto image = vmm::loader::parse_elf(source);
  if (!image) return 0;
  if (!image->entry && !image->pvh_entry) std::abort();
  if (image->end() < image->begin()) std::abort();
  (void)vmm::loader::load_elf(*image, source, *memory);  // memory is never left, by ASan
  return 0;
}
