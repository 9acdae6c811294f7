#include "src/hypervisor/snapshot/remove.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "src/base/unique_fd.h"
#include "src/hypervisor/snapshot/catalog.h"
#include "src/hypervisor/snapshot/manifest.h"
#include "src/hypervisor/snapshot/seal.h"
#include "src/hypervisor/snapshot/working_set.h"

namespace vmm::snapshot {
namespace {

namespace fs = std::filesystem;

// The files, or an error when there is something else in the directory: it may be precious.
Result<std::vector<std::string>> files_of(const std::string& directory) {
  std::vector<std::string> disks;
  if (const auto entry = examine(directory)) {
    for (const auto& disk : entry->manifest.disks) disks.push_back(disk.file);
  }
  std::vector<std::string> names;
  std::error_code error;
  bool any = false;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const auto name = entry.path().filename().string();
    const bool essential = name == kManifestFile || name == kStateFile || name == kMemoryFile;
    // Without a manifest (an earlier removal was interrupted) disks are known by their names.
    const bool disk = std::ranges::find(disks, name) != disks.end() || name.ends_with(".img") ||
                      name.ends_with(".qcow2");
    const bool beside = name == kSealFile || name == kWorkingSetFile || name == kWorkingSetPartial;
    if ((!essential && !disk && !beside) || !entry.is_regular_file(error)) {
      return fail("'{}' has '{}' in it, which is no part of a snapshot; nothing was removed",
                  directory, name);
    }
    any = any || essential;
    names.push_back(name);
  }
  if (error) return fail("cannot list '{}': {}", directory, error.message());
  if (!any) return fail("'{}' is no snapshot: it has no {}", directory, kManifestFile);
  return names;
}

}  // namespace

Result<void> remove(const std::string& directory) {
  const UniqueFd handle(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!handle) return fail_errno("cannot open snapshot '{}'", directory);
  if (::flock(handle.get(), LOCK_EX | LOCK_NB) < 0) {
    return fail("snapshot '{}' is being written or removed by another process", directory);
  }
  const auto names = TRY(files_of(directory));
  const auto children = TRY(children_of(directory));
  if (!children.empty()) {
    return fail("snapshot '{}' is the parent of '{}'{}: remove or merge what builds on it first",
                directory, children.front(),
                children.size() > 1 ? fmt::format(" and {} more", children.size() - 1) : "");
  }
  const std::string manifest(kManifestFile);
  if (::unlinkat(handle.get(), manifest.c_str(), 0) < 0 && errno != ENOENT) {
    return fail_errno("cannot remove '{}/{}'", directory, manifest);
  }
  if (::fsync(handle.get()) < 0) return fail_errno("cannot sync '{}'", directory);
  for (const auto& name : names) {
    if (::unlinkat(handle.get(), name.c_str(), 0) < 0 && errno != ENOENT) {
      return fail_errno("cannot remove '{}/{}'", directory, name);
    }
  }
  if (::rmdir(directory.c_str()) < 0) return fail_errno("cannot remove '{}'", directory);
  return {};
}

}  // namespace vmm::snapshot
