// commit(): what an image has, written into its backing file.
#pragma once

#include <string>

#include "src/base/progress.h"
#include "src/base/result.h"

namespace vmm::disk::qcow2 {

// The image is empty afterwards and reads as before. A crash leaves both readable: the backing file
// is durable before the image gives anything up, and a second commit does the rest. A cancel leaves
// the same.
Result<void> commit(const std::string& path, Progress& progress = Progress::none());

}  // namespace vmm::disk::qcow2
