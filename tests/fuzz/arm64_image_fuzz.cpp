// Any bytes as a kernel for arm64: its header, its payload when it is compressed, and the Image
// in it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "firmware/loader/arm64_image.h"
#include "firmware/loader/bzimage.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm::loader;
  const auto source = ImageSource::borrowed(std::as_bytes(std::span(data, size)));
  const auto image = parse_arm64_image(source);
  if (image && image->text_offset >= kArm64ImageAlignment) std::abort();
  // A gzip stream says its size: a few bytes would ask for much memory, which is only slower.
  if (size > 4 && data[0] == 0x1f && (data[size - 1] != 0 || data[size - 2] > 0x10)) return 0;
  const auto unpacked = unpack_arm64_image(source);
  if (!unpacked || !*unpacked) return 0;
  if ((*unpacked)->size() > kMaxPayloadSize) std::abort();
  (void)parse_arm64_image(ImageSource::borrowed((*unpacked)->bytes()));
  return 0;
}
