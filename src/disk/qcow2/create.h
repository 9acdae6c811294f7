// New image files.
//
//   TRY(create_image({.path = "overlay.qcow2", .size = base_size,
//                     .backing_path = "base.img", .backing_format = ImageFormat::raw}));
#pragma once

#include <cstdint>
#include <string>

#include "src/disk/disk_config.h"
#include "src/disk/qcow2/header.h"

namespace vmm::disk::qcow2 {

struct CreateOptions {
  std::string path;
  ImageFormat format = ImageFormat::qcow2;
  std::uint64_t size = 0;  // bytes, a multiple of 512; 0 with a backing file: as large as that
  std::uint64_t cluster_size = 1ull << kDefaultClusterBits;
  std::string backing_path;  // as it is to stand in the image; relative to the image's directory
  ImageFormat backing_format = ImageFormat::automatic;  // found out, and written down
  Compression compression = Compression::zlib;          // of clusters that convert() packs
};

// Version 3, nothing allocated, durable when it returns. Never overwrites.
Result<void> create_image(const CreateOptions& options);

// The same into a file that is open and empty; options.path is not used.
Result<void> write_empty_image(int fd, const CreateOptions& options);

}  // namespace vmm::disk::qcow2
