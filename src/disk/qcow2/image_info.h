// describe_image(): what a disk's file says of itself, for people and programs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/disk/disk_config.h"
#include "src/disk/qcow2/header.h"

namespace vmm::disk::qcow2 {

struct ImageInfo {
  std::string path;
  ImageFormat format = ImageFormat::raw;
  std::uint64_t size = 0;   // of the disk, in bytes
  std::uint64_t space = 0;  // that the file takes on its file system
  bool in_use = false;      // something writes to it: what is said here may be out of date
  // Of a qcow2 image.
  Header header;
  bool dirty = false;
  bool damaged = false;
  // The files behind it, as far as they could be opened, and why the next one could not.
  struct Backing {
    std::string path;
    ImageFormat format = ImageFormat::raw;
  };
  std::vector<Backing> backing;
  std::string backing_error;
};

// Reads headers alone, and so a disk that is in use too.
Result<ImageInfo> describe_image(const std::string& path,
                                 ImageFormat format = ImageFormat::automatic);

}  // namespace vmm::disk::qcow2
