// A layer: a new image that has some clusters of a disk, zeroes too, and leaves the others to its
// backing file, which need not be there while it is written.
#pragma once

#include <memory>
#include <string>

#include "src/disk/copied_disk.h"
#include "src/disk/qcow2/create.h"

namespace vmm::disk::qcow2 {

// Into the file `options.path`, which is empty, and locked until finish(). Its clusters are as
// large as the chunks of a copy.
Result<std::unique_ptr<CopyTarget>> copy_to_layer(CreateOptions options);

}  // namespace vmm::disk::qcow2
