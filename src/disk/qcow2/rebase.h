// rebase(): another backing file for an image that nobody uses.
#pragma once

#include <cstdint>
#include <string>

#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/disk/disk_config.h"

namespace vmm::disk::qcow2 {

struct RebaseOptions {
  std::string path;
  std::string backing_path;  // as it is to stand in the image; empty: none
  ImageFormat backing_format = ImageFormat::automatic;  // found out, and written down
  // The image is to read as before: it gets what the new backing file has not. Otherwise its name
  // alone changes, as for a file that was moved; neither file has to be there.
  bool keeps_content = true;
};

// A crash leaves the old backing file or the new one; the image reads the same with the old one. A
// cancel leaves the old one.
Result<void> rebase(const RebaseOptions& options, Progress& progress = Progress::none());

}  // namespace vmm::disk::qcow2
