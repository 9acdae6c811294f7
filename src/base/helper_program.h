// Where a program is that belongs to this one.
#pragma once

#include <string>
#include <string_view>

#include "src/base/result.h"

namespace vmm {

struct HelperProgram {
  std::string_view what;          // in errors: "network program"
  std::string_view name;          // "vmm-net"
  std::string_view build_folder;  // in a build tree: "src/user_net"
};

// In $VMM_LIBEXEC if that is set; else beside this program, in ../libexec/vmm, or in the build
// tree. Error: there is none that can be run.
Result<std::string> find_helper_program(const HelperProgram& helper);

}  // namespace vmm
