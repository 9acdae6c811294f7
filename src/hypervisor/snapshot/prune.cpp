#include "src/hypervisor/snapshot/prune.h"

#include <sys/stat.h>
#include <unistd.h>

#include "src/base/new_file.h"
#include "src/hypervisor/snapshot/catalog.h"
#include "src/hypervisor/snapshot/files.h"

namespace vmm::snapshot {

namespace {

// Error: EWOULDBLOCK while another process works in it, ENOENT when it was done meanwhile.
Result<void> remove_unfinished(const std::string& path) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode)) {
    const auto locked = TRY(lock_unfinished_file(path));
    if (::unlink(path.c_str()) < 0) return fail_errno("cannot remove '{}'", path);
    return {};
  }
  const auto locked = TRY(lock_partial(path));
  TRY(clear_partial(locked.get(), path));
  if (::rmdir(path.c_str()) < 0) return fail_errno("cannot remove '{}'", path);
  return {};
}

}  // namespace

Result<Pruned> prune(const std::string& directory) {
  Pruned pruned;
  for (const auto& entry : TRY(list(directory))) {
    if (!entry.unfinished) continue;
    const auto removed = remove_unfinished(directory + "/" + entry.name);
    if (removed) {
      pruned.removed.push_back(entry.name);
    } else if (removed.error().code() == EWOULDBLOCK) {
      pruned.in_use.push_back(entry.name);
    } else if (removed.error().code() != ENOENT) {
      pruned.refused.push_back(removed.error().message());
    }
  }
  return pruned;
}

}  // namespace vmm::snapshot
