#include "src/base/result.h"

#include <cstring>

namespace vmm {

std::unexpected<Error> fail_errno_text(int code, std::string what) {
  return std::unexpected(Error(fmt::format("{}: {}", what, std::strerror(code)), code));
}

}  // namespace vmm
