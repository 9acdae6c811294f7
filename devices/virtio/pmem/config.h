// PmemConfig: what a persistent memory device is asked to be.
//
//   const auto pmem = TRY(parse_pmem_config("image.erofs"));
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/disk/disk_config.h"
#include "src/spec/fields.h"

namespace vmm::virtio {

// Linux describes such memory in stretches of this size (memremap_compat_align()), so that a device
// begins and ends at one.
inline constexpr std::uint64_t kPmemAlignment = 2u << 20;
// A guest keeps a 64th of it as its description.
inline constexpr std::uint64_t kMaxPmemSize = 64ull << 30;

struct PmemConfig {
  std::string path;  // empty: of a slot, there is nothing in it
  // Not 0: a slot, which has room for so many bytes and may be filled when its machine is restored.
  std::uint64_t slot_size = 0;
  disk::ImageFormat format = disk::ImageFormat::automatic;  // raw or vmdk; automatic: raw
  friend bool operator==(const PmemConfig&, const PmemConfig&) = default;
};

spec::Fields fields_of(PmemConfig& pmem);
// PATH[,key=value...] or size=SIZE
Result<PmemConfig> parse_pmem_config(std::string_view words);

// That it has a path or is a slot: what is read of a snapshot may be neither.
Result<void> check(const PmemConfig& pmem);
// The device with what `given` puts into it. The size of a slot stays.
Result<PmemConfig> fill(const PmemConfig& device, const PmemConfig& given);

}  // namespace vmm::virtio
