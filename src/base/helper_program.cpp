#include "src/base/helper_program.h"

#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>

namespace vmm {
namespace {

bool is_executable(const std::string& path) { return ::access(path.c_str(), X_OK) == 0; }

}  // namespace

Result<std::string> find_helper_program(const HelperProgram& helper) {
  if (const char* folder = std::getenv("VMM_LIBEXEC"); folder != nullptr && *folder != 0) {
    auto path = fmt::format("{}/{}", folder, helper.name);
    if (is_executable(path)) return path;
    return fail("the {} '{}' cannot be run: VMM_LIBEXEC names its folder", helper.what, path);
  }
  std::array<char, PATH_MAX> link;
  const ssize_t n = ::readlink("/proc/self/exe", link.data(), link.size());
  if (n < 0) return fail_errno("cannot read /proc/self/exe");
  std::string folder(link.data(), static_cast<std::size_t>(n));
  folder.resize(folder.rfind('/'));
  const std::string own = folder;
  for (const auto* place : {"", "/../libexec/vmm"}) {
    auto path = fmt::format("{}{}/{}", own, place, helper.name);
    if (is_executable(path)) return path;
  }
  // A build tree: devices/..., tests/... and src/cli/ are beside the folder at some height.
  while (!folder.empty()) {
    auto path = fmt::format("{}/{}/{}", folder, helper.build_folder, helper.name);
    if (is_executable(path)) return path;
    folder.resize(folder.rfind('/'));
  }
  return fail("the {} '{}' is missing: it belongs to {}/../libexec/vmm/{}", helper.what,
              helper.name, own, helper.name);
}

}  // namespace vmm
