#include "src/engine/cli/output_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>

#include "src/base/unique_fd.h"

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
  // Written beside, as an archive that was there is worth more than half of another. By a name that
  // nobody knows before: where others write too, it is not theirs.
  auto partial = folder + "/.vmm-output.XXXXXX";
  const UniqueFd file(::mkostemp(partial.data(), O_CLOEXEC));
  if (!file) return fail_errno("cannot create '{}'", path);
  auto done = write(file.get());
  if (done && ::rename(partial.c_str(), path.c_str()) < 0) {
    done = fail_errno("cannot create '{}'", path);
  }
  if (!done) (void)::unlink(partial.c_str());  // the error is told
  return done;
}

}  // namespace vmm::engine::cli
