#include "src/hypervisor/snapshot/disk_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/disk/qcow2/layer.h"
#include "src/hypervisor/snapshot/digest.h"

namespace vmm::snapshot {

disk::ImageFormat image_format(const DiskEntry& entry) {
  return entry.layer ? disk::ImageFormat::qcow2 : disk::ImageFormat::raw;
}

std::string backing_path(const Parent& parent, const DiskEntry& below) {
  return parent.path + "/" + below.file;
}

Result<std::unique_ptr<disk::CopyTarget>> create_copy(const Writer& writer, DiskEntry& entry,
                                                      int plain_file) {
  entry.file = entry.device + ".img";
  auto file = TRY(writer.create_file(entry.file));
  if (plain_file >= 0 && ::ioctl(file.get(), FICLONE, plain_file) == 0) return nullptr;
  if (::ftruncate(file.get(), static_cast<off_t>(entry.size)) < 0) {
    return fail_errno("cannot make room for '{}', the copy of disk '{}'",
                      writer.path_of(entry.file), entry.path);
  }
  return disk::copy_to_raw_file(std::move(file), writer.path_of(entry.file));
}

Result<std::unique_ptr<disk::CopyTarget>> create_layer(const Writer& writer, DiskEntry& entry,
                                                       const Parent& parent,
                                                       const DiskEntry& below) {
  if (below.size != entry.size) {
    return fail("disk '{}' had {} bytes in '{}', it has {} now", entry.path, below.size,
                parent.path, entry.size);
  }
  entry.layer = true;
  entry.file = entry.device + ".qcow2";
  TRY(writer.create_file(entry.file));
  return disk::qcow2::copy_to_layer({.path = writer.path_of(entry.file),
                                     .size = entry.size,
                                     .backing_path = backing_path(parent, below),
                                     .backing_format = image_format(below)});
}

Result<void> complete_entry(const Writer& writer, DiskEntry& entry, Progress& progress) {
  const auto file = TRY(open_file(writer.path_of(entry.file), O_RDONLY));
  if (::fdatasync(file.get()) < 0)
    return fail_errno("cannot sync '{}'", writer.path_of(entry.file));
  struct stat status{};
  if (::fstat(file.get(), &status) < 0) return fail_errno("cannot examine '{}'", entry.file);
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (entry.layer) entry.file_size = size;
  entry.digest = TRY(digest_of_sparse(file.get(), size, progress));
  return {};
}

Result<std::unique_ptr<disk::qcow2::Chain>> open_disk_file(const std::string& path,
                                                           const DiskEntry& entry) {
  return disk::qcow2::Chain::open({.path = path, .format = image_format(entry), .read_only = true});
}

}  // namespace vmm::snapshot
