#include "src/hypervisor/snapshot/boot_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/merge.h"
#include "src/hypervisor/snapshot/writer.h"

namespace vmm::snapshot {
namespace {

Result<std::uint64_t> size_of(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) < 0) return fail_errno("cannot examine it");
  return static_cast<std::uint64_t>(status.st_size);
}

Result<BootFile> keep(const Writer& writer, std::string_view name, int from, const Manifest* parent,
                      Progress& progress) {
  BootFile file;
  file.name = name;
  file.size = TRY(size_of(from));
  if (parent != nullptr) {
    const auto same = std::ranges::find(parent->boot, name, &BootFile::name);
    if (same != parent->boot.end() && same->size == file.size &&
        same->digest == TRY(digest_of_sparse(from, file.size))) {
      file.digest = same->digest;
      file.of_parent = true;
      return file;
    }
  }
  // The digest is the copy's: nobody else writes to that.
  const auto to = TRY(writer.create_file(name));
  if (const auto copied = copy_sparse(from, to.get(), file.size, progress); !copied) {
    return fail("cannot write '{}': {}", writer.path_of(name), copied.error().message());
  }
  if (::fdatasync(to.get()) < 0) return fail_errno("cannot sync '{}'", writer.path_of(name));
  file.digest = TRY(digest_of_sparse(to.get(), file.size, progress));
  return file;
}

}  // namespace

Result<BootFiles> open_boot_files(const std::string& kernel, const std::string& initrd) {
  BootFiles files;
  files.kernel = TRY(open_regular_file(kernel));
  if (!initrd.empty()) files.initrd = TRY(open_regular_file(initrd));
  return files;
}

Result<std::vector<BootFile>> keep_boot_files(const Writer& writer, const BootFiles& files,
                                              const Manifest* parent, Progress& progress) {
  std::vector<BootFile> kept;
  if (!files.kernel) return kept;
  kept.push_back(TRY(keep(writer, kKernelFile, files.kernel.get(), parent, progress)));
  if (!files.initrd) return kept;
  kept.push_back(TRY(keep(writer, kInitrdFile, files.initrd.get(), parent, progress)));
  return kept;
}

}  // namespace vmm::snapshot
