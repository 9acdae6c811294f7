// Any text as a VMDK descriptor. What is taken keeps the bounds that a disk is promised.
#include <cstdlib>
#include <string_view>

#include "src/disk/disk.h"
#include "src/disk/vmdk/descriptor.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm::disk;
  const auto extents =
      vmdk::parse_descriptor(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!extents) return 0;
  std::uint64_t total = 0;
  for (const auto& extent : *extents) {
    if (extent.length == 0 || extent.length % kSectorSize != 0) std::abort();
    if (extent.offset % kSectorSize != 0 || extent.offset > kMaxDiskSize) std::abort();
    total += extent.length;
  }
  if (extents->empty() || extents->size() > vmdk::kMaxExtents || total > kMaxDiskSize) std::abort();
  return 0;
}
