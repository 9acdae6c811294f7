#include "src/hypervisor/snapshot/remove.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "src/base/unique_fd.h"
#include "src/hypervisor/snapshot/catalog.h"
#include "src/hypervisor/snapshot/files.h"
#include "src/hypervisor/snapshot/manifest.h"

namespace vmm::snapshot {
namespace {

// The files, or an error when there is something else in the directory: it may be precious.
Result<std::vector<std::string>> files_of(int handle, const std::string& directory) {
  const auto entry = examine(directory);
  const auto is_part = [&](const ListedFile& file) {
    if (!file.regular) return false;
    // Without a manifest (an earlier removal was interrupted) disks are known by their names.
    if (!entry) return is_own_name(file.name);
    return is_fixed_name(file.name) ||
           std::ranges::find(entry->manifest.disks, file.name, &DiskEntry::file) !=
               entry->manifest.disks.end();
  };
  std::vector<std::string> names;
  bool any = false;
  for (const auto& file : TRY(list_files(handle, directory))) {
    if (!is_part(file)) {
      return fail("'{}' has '{}' in it, which is not part of a snapshot; nothing was removed",
                  directory, file.name);
    }
    any = any || file.name == kManifestFile || file.name == kStateFile || file.name == kMemoryFile;
    names.push_back(file.name);
  }
  if (!any) return fail("'{}' is not a snapshot: it has no {}", directory, kManifestFile);
  return names;
}

}  // namespace

Result<void> remove(const std::string& directory) {
  const UniqueFd handle(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!handle) return fail_errno("cannot open snapshot '{}'", directory);
  if (::flock(handle.get(), LOCK_EX | LOCK_NB) < 0) {
    return fail("snapshot '{}' is being written or removed by another process", directory);
  }
  const auto names = TRY(files_of(handle.get(), directory));
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
