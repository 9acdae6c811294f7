// Any bytes as the archive of a layer; then the layer's image, and any bytes as one, merged.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <span>

#include "src/base/unique_fd.h"
#include "src/engine/image/layer_image.h"
#include "src/engine/image/merged_image.h"

namespace {

using namespace vmm;
using namespace vmm::engine;

UniqueFd file_of(std::span<const std::byte> content) {
  UniqueFd fd(::memfd_create("layer-fuzz", MFD_CLOEXEC));
  if (!fd || !write_all_at(fd.get(), content, 0)) std::abort();
  return fd;
}

void merge(int first, int second) {
  const std::array layers = {first, second};
  const auto out = file_of({});
  (void)write_merged_image(layers, out.get());  // most fail; none may touch memory not its own
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = file_of(std::as_bytes(std::span(data, size)));
  const auto layer = file_of({});
  FileSource source(input.get());
  constexpr LayerLimits kLimits = {
      .archive_bytes = 1u << 20, .entries = 1000, .name_bytes = 1u << 20};
  if (write_layer_image(source, layer.get(), kLimits)) {
    merge(layer.get(), layer.get());
  } else {
    merge(input.get(), input.get());
  }
  return 0;
}
