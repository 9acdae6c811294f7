// compare(): whether two disks have the same content, whatever they are stored in.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/disk/disk_config.h"

namespace vmm::disk::qcow2 {

struct CompareOptions {
  std::string first, second;
  ImageFormat first_format = ImageFormat::automatic;
  ImageFormat second_format = ImageFormat::automatic;
};

struct CompareResult {
  std::optional<std::uint64_t> differ_at;  // the first byte that is not the same
  std::uint64_t first_size = 0, second_size = 0;
};

// What the larger one has more counts as the same while it is zero.
Result<CompareResult> compare(const CompareOptions& options, Progress& progress = Progress::none());

}  // namespace vmm::disk::qcow2
