// convert(): the content of a disk, whatever it is stored in, as a new file that needs no other.
#pragma once

#include <optional>
#include <string>

#include "src/base/progress.h"
#include "src/disk/disk_config.h"
#include "src/disk/qcow2/header.h"

namespace vmm::disk::qcow2 {

struct ConvertOptions {
  std::string source;
  ImageFormat source_format = ImageFormat::automatic;
  std::string target;
  ImageFormat format = ImageFormat::qcow2;  // raw: sparse
  std::optional<Compression> compression;   // qcow2: each cluster that becomes smaller
  std::uint64_t cluster_size = 1ull << kDefaultClusterBits;
};

// The target has its name only when it is whole and durable; it never overwrites. Cancelled, it
// leaves nothing.
Result<void> convert(const ConvertOptions& options, Progress& progress = Progress::none());

}  // namespace vmm::disk::qcow2
