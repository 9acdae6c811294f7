#include "src/engine/cli/output_file.h"

#include <sys/stat.h>

#include <filesystem>

#include "src/base/new_file.h"

namespace vmm::engine::cli {
namespace {

Result<void> check(const std::string& path, const std::string& folder) {
  struct stat status{};
  if (::stat(folder.c_str(), &status) < 0 && errno == ENOENT) {
    return fail("invalid output path: directory \"{}\" does not exist", folder);
  }
  if (::stat(path.c_str(), &status) < 0) {
    if (errno == ENOENT) return {};
    return fail_errno("invalid output path: \"{}\"", path);
  }
  if (S_ISDIR(status.st_mode)) return fail("cannot create '{}': Is a directory", path);
  if (S_ISREG(status.st_mode)) return {};
  return fail("invalid output path: \"{}\" must be a directory or a regular file{}", path,
              S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode) ? ": got a device" : "");
}

}  // namespace

Result<void> write_output_file(const std::string& path,
                               const std::function<Result<void>(int)>& write) {
  const auto parent = std::filesystem::path(path).parent_path().string();
  const auto folder = parent.empty() ? "." : parent;
  TRY(check(path, folder));
  // An archive that was there is worth more than half of another.
  auto file = TRY(NewFile::replacing(path));
  TRY(write(file.fd()));
  return file.publish();
}

}  // namespace vmm::engine::cli
