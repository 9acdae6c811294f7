#include "devices/virtio/pmem/pmem_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include "src/base/file_time.h"
#include "src/disk/qcow2/probe.h"

namespace vmm::virtio {
namespace {

disk::DiskConfig read_only(const PmemConfig& config, disk::ImageFormat format) {
  return {.path = config.path, .format = format, .read_only = true};
}

}  // namespace

Result<PmemFiles> PmemFiles::open(const PmemConfig& config) {
  PmemFiles files;
  if (config.path.empty()) return files;
  const bool is_list = config.format == disk::ImageFormat::vmdk;
  if (const auto opened = is_list ? files.open_list(config) : files.open_one(config); !opened) {
    return fail("pmem '{}': {}", config.path, opened.error().message());
  }
  const auto room = config.slot_size != 0 ? config.slot_size : kMaxPmemSize;
  if (files.size_ <= room) return files;
  return fail("pmem '{}' has {} bytes: expected at most {}", config.path, files.size_, room);
}

Result<void> PmemFiles::open_one(const PmemConfig& config) {
  if (config.format == disk::ImageFormat::automatic) {
    const auto format = disk::qcow2::probe_format(config.path);
    if (!format) return fail("{}", format.error().message());
    if (*format != disk::ImageFormat::raw) {
      return fail("it is a qcow2 image: expected a raw one, as the guest maps the file itself");
    }
  }
  file_ = TRY(disk::RawFile::open(read_only(config, disk::ImageFormat::raw),
                                  disk::RawFile::Content::format));
  return add(*file_, 0, file_->info().size);
}

Result<void> PmemFiles::open_list(const PmemConfig& config) {
  list_ = TRY(disk::vmdk::FlatDisk::open(read_only(config, disk::ImageFormat::vmdk)));
  for (const auto& part : list_->parts()) {
    TRY(add(list_->file(part.file), part.offset, part.length));
  }
  return {};
}

// Only whole pages can be mapped; what is behind a file's end in its last page reads as zeroes.
Result<void> PmemFiles::add(const disk::RawFile& file, std::uint64_t offset, std::uint64_t length) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  if (file.kind() != disk::RawFile::Kind::file) {
    return fail("'{}' is a block device: expected a file, of which it is known whether it changed",
                file.name());
  }
  if (length == 0) return fail("'{}' is empty", file.name());
  if (size_ % page != 0 || offset % page != 0) {
    return fail("'{}' does not begin at a page of {} bytes", file.name(), page);
  }
  if (length % page != 0 && offset + length != file.info().size) {
    return fail("{} bytes of '{}' are no whole pages of {}", length, file.name(), page);
  }
  parts_.push_back({.offset = size_, .length = length, .fd = file.fd(), .file_offset = offset});
  size_ += length;
  return {};
}

Result<std::vector<PmemFiles::Version>> PmemFiles::versions() const {
  std::vector<Version> versions;
  for (const auto& part : parts_) {
    struct stat status{};
    if (::fstat(part.fd, &status) < 0) return fail_errno("cannot examine a file of pmem");
    versions.push_back({part.length, nanoseconds(status.st_mtim)});
  }
  return versions;
}

}  // namespace vmm::virtio
