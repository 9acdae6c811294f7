#include "src/disk/qcow2/snapshot_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <string_view>

#include "src/base/unique_fd.h"

namespace vmm::disk::qcow2 {

Result<void> refuse_snapshot_file(const std::string& path) {
  // src/hypervisor/snapshot/FORMAT.md: the manifest says what it is near its start.
  constexpr std::string_view kManifest = "manifest.json", kFormat = "\"vmm-snapshot\"";
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  if (error) return {};  // opening it tells why
  const auto file = open_file(real.parent_path() / kManifest, O_RDONLY | O_NONBLOCK);
  if (!file) return {};
  std::string start(4096, '\0');
  const ssize_t size = ::pread(file->get(), start.data(), start.size(), 0);
  start.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  if (start.find(kFormat) == std::string::npos) return {};
  return fail(
      "disk '{}' is a part of the snapshot '{}', which a change would spoil: copy it with `vmm "
      "disk "
      "convert` first",
      path, real.parent_path().string());
}

}  // namespace vmm::disk::qcow2
