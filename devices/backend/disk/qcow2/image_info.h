// describe_image(): what a disk's file says of itself, for people and programs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "devices/backend/disk/disk_config.h"
#include "devices/backend/disk/qcow2/header.h"

namespace vmm::disk::qcow2 {

struct ImageInfo {
  std::string path;
  ImageFormat format = ImageFormat::raw;
  std::uint64_t size = 0;   // of the disk, in bytes
  std::uint64_t space = 0;  // that the file takes on its file system
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

Result<ImageInfo> describe_image(const std::string& path,
                                 ImageFormat format = ImageFormat::automatic);

}  // namespace vmm::disk::qcow2
