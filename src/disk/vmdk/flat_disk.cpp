#include "src/disk/vmdk/flat_disk.h"

#include <algorithm>
#include <filesystem>

#include "src/base/unique_fd.h"
#include "src/disk/vmdk/flat_channel.h"

namespace vmm::disk::vmdk {
Result<std::unique_ptr<FlatDisk>> FlatDisk::open(const DiskConfig& config) {
  const std::string& name = config.label.empty() ? config.path : config.label;
  if (!config.read_only) return fail("disk '{}': a VMDK can only be read: add ',ro'", name);
  const auto text = TRY(read_text_file(config.path, kMaxDescriptor));
  const auto extents = parse_descriptor(text);
  if (!extents) {
    return fail("disk '{}' is not a VMDK descriptor of flat files: {}", name,
                extents.error().message());
  }
  std::unique_ptr<FlatDisk> disk(new FlatDisk(name, config.io));
  disk->info_.read_only = true;
  for (const auto& extent : *extents) {
    if (const auto added = disk->add(extent, config); !added) {
      return fail("disk '{}': {}", name, added.error().message());
    }
  }
  // With direct I/O and on block devices the pieces of a request must be whole blocks, too.
  for (const auto& part : disk->parts_) {
    const std::uint64_t block = disk->info_.block_size;
    if (part.begin % block == 0 && part.length % block == 0 && part.offset % block == 0) continue;
    return fail("disk '{}': an extent is not aligned to blocks of {} bytes, which its files have",
                name, block);
  }
  return disk;
}

Result<void> FlatDisk::add(const Extent& extent, const DiskConfig& config) {
  const auto path = std::filesystem::path(config.path).parent_path() / extent.path;
  const auto index = TRY(find_file(path.string(), config));
  const auto& file = *files_[index];
  if (extent.offset > file.info().size || extent.length > file.info().size - extent.offset) {
    return fail("an extent ends at byte {} of '{}', which has {}", extent.offset + extent.length,
                file.name(), file.info().size);
  }
  parts_.push_back({info_.size, extent.length, index, extent.offset});
  info_.size += extent.length;
  info_.block_size = std::max(info_.block_size, file.info().block_size);
  info_.physical_block_size = std::max(info_.physical_block_size, file.info().physical_block_size);
  return {};
}

Result<std::size_t> FlatDisk::find_file(const std::string& path, const DiskConfig& config) {
  const auto known = std::ranges::find_if(files_, [&](const auto& f) { return f->name() == path; });
  if (known != files_.end()) return static_cast<std::size_t>(known - files_.begin());
  files_.push_back(TRY(RawFile::open(
      {.path = path, .format = ImageFormat::raw, .read_only = true, .direct = config.direct})));
  return files_.size() - 1;
}

std::size_t FlatDisk::part_at(std::uint64_t offset) const {
  const auto behind = std::ranges::upper_bound(parts_, offset, {}, &Part::begin);
  return static_cast<std::size_t>(behind - parts_.begin()) - 1;
}

std::unique_ptr<Channel> FlatDisk::open_channel(EventLoop& loop, std::function<void()> ready) {
  return std::make_unique<FlatChannel>(*this, io_, loop, std::move(ready));
}

Result<void> FlatDisk::read(std::uint64_t offset, std::span<std::byte> target) {
  for (auto i = part_at(offset); !target.empty(); ++i) {
    const Part& part = parts_[i];
    const auto length = std::min<std::uint64_t>(target.size(), part.end() - offset);
    const iovec buffer{target.data(), length};
    const Request request{.operation = Operation::read,
                          .offset = part.offset + (offset - part.begin),
                          .length = length,
                          .buffers = std::span(&buffer, 1)};
    if (const int error = file(part.file).perform(request); error != 0) {
      errno = error;
      return fail_errno("cannot read disk '{}'", name_);
    }
    target = target.subspan(length);
    offset += length;
  }
  return {};
}

Result<DataRange> FlatDisk::next_data(std::uint64_t offset) {
  for (auto i = part_at(offset); i < parts_.size(); ++i) {
    const Part& part = parts_[i];
    offset = std::max(offset, part.begin);
    const std::uint64_t in_file = part.offset + (offset - part.begin);
    const auto data = TRY(file(part.file).next_data(in_file));
    if (data.length == 0 || data.offset >= part.offset + part.length) continue;
    const std::uint64_t begin = part.begin + (data.offset - part.offset);
    return DataRange{begin, std::min(data.length, part.end() - begin)};
  }
  return DataRange{info_.size, 0};
}

}  // namespace vmm::disk::vmdk
