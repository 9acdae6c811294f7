// The file that `save -o` and `export -o` write.
#pragma once

#include <functional>
#include <string>

#include "src/base/result.h"

namespace vmm::engine::cli {

// What `write` writes to a descriptor becomes `path`, mode 0600, once it is whole. Replaces only
// regular files, and links to them.
Result<void> write_output_file(const std::string& path,
                               const std::function<Result<void>(int)>& write);

}  // namespace vmm::engine::cli
