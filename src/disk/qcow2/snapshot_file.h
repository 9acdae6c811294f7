// Files of a snapshot of a machine, which nothing may change: its digests would no longer fit.
#pragma once

#include <string>

#include "src/base/result.h"

namespace vmm::disk::qcow2 {

// Error: the file lies in the directory of a snapshot.
Result<void> refuse_snapshot_file(const std::string& path);

}  // namespace vmm::disk::qcow2
