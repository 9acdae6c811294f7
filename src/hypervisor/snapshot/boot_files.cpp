#include "src/hypervisor/snapshot/boot_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "src/base/file_time.h"
#include "src/base/log.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/merge.h"
#include "src/hypervisor/snapshot/writer.h"

namespace vmm::snapshot {
namespace {

struct stat status_of(const UniqueFd& fd) {
  struct stat status{};
  if (fd) (void)::fstat(fd.get(), &status);
  return status;
}

std::uint64_t size_of(const UniqueFd& fd) {
  return static_cast<std::uint64_t>(status_of(fd).st_size);
}

std::int64_t modified_ns(const UniqueFd& fd) { return nanoseconds(status_of(fd).st_mtim); }

Result<BootFile> keep(const Writer& writer, std::string_view name, const UniqueFd& fd,
                      const Manifest* parent, Progress& progress) {
  BootFile file;
  file.name = name;
  file.size = size_of(fd);
  const int from = fd.get();
  if (parent != nullptr) {
    const auto same = std::ranges::find(parent->boot, name, &BootFile::name);
    if (same != parent->boot.end() && same->size == file.size &&
        same->digest == TRY(digest_of_sparse(from, file.size, progress))) {
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
  note_times(files);
  return files;
}

void note_times(BootFiles& files) {
  files.kernel_modified_ns = modified_ns(files.kernel);
  files.initrd_modified_ns = modified_ns(files.initrd);
}

std::uint64_t boot_size(const BootFiles& files) {
  return size_of(files.kernel) + size_of(files.initrd);
}

Result<std::vector<BootFile>> keep_boot_files(const Writer& writer, const BootFiles& files,
                                              const Manifest* parent, Progress& progress) {
  std::vector<BootFile> kept;
  if (!files.kernel) return kept;
  kept.push_back(TRY(keep(writer, kKernelFile, files.kernel, parent, progress)));
  if (files.initrd) {
    kept.push_back(TRY(keep(writer, kInitrdFile, files.initrd, parent, progress)));
  }
  // Looked at behind the copies: half of what somebody writes may be in them.
  if (modified_ns(files.kernel) == files.kernel_modified_ns &&
      modified_ns(files.initrd) == files.initrd_modified_ns) {
    return kept;
  }
  log::warn(
      "the kernel or the initrd was written over since the guest booted it: '{}' has no copy, and "
      "a guest restored from it that resets boots what --kernel names",
      writer.directory());
  TRY(writer.remove_file(kKernelFile));
  TRY(writer.remove_file(kInitrdFile));
  return std::vector<BootFile>();
}

}  // namespace vmm::snapshot
