#include "src/hypervisor/snapshot/reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/disk_file.h"
#include "src/hypervisor/snapshot/seal.h"

namespace vmm::snapshot {
namespace {

// A process has 65530 mappings by default (vm.max_map_count); beyond this many, changed pages are
// read instead.
constexpr std::size_t kMaxMappings = 20'000;

Result<UniqueFd> open_file(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno("cannot open '{}'", path);
  return fd;
}

// The chain of images is that of snapshots, with one above that a machine writes to.
static_assert(kMaxDepth < disk::qcow2::kMaxChain);

std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

Result<std::unique_ptr<Reader>> Reader::open(const std::string& directory, Verify verify,
                                             Hosts hosts) {
  std::unique_ptr<Reader> reader(new Reader(directory));
  if (const auto result = reader->read(verify, hosts, 0); !result) {
    return fail("snapshot '{}': {}", directory, result.error().message());
  }
  return reader;
}

Result<void> Reader::read(Verify verify, Hosts hosts, std::size_t depth) {
  if (depth >= kMaxDepth) return fail("it has more than {} parents", kMaxDepth);
  struct stat status{};
  if (::stat(path_.c_str(), &status) < 0) return fail("there is no such directory");
  if (!S_ISDIR(status.st_mode)) return fail("it is not a directory");
  const auto text = read_text_file(path_ + "/" + std::string(kManifestFile));
  if (!text) return fail("it has no manifest: {}", text.error().message());
  manifest_ = TRY(parse_manifest(*text));
  digest_ = TRY(digest_in(*text));
  if (hosts == Hosts::this_one && manifest_.architecture != host_architecture()) {
    return fail("it is of an {} machine, this host is {}", manifest_.architecture,
                host_architecture());
  }
  auto layer = TRY(read_state());
  if (manifest_.parent.has_value() == layer.complete) {
    return fail("its states do not fit its manifest");
  }
  TRY(check_large_files(verify));
  if (manifest_.parent) {
    const auto& path = manifest_.parent->path;
    Reader parent(path.starts_with('/') ? path : path_ + "/" + path);
    if (const auto result = parent.read(verify, hosts, depth + 1); !result) {
      return fail("its parent '{}': {}", parent.path_, result.error().message());
    }
    if (parent.digest_ != manifest_.parent->digest) {
      return fail("its parent '{}' is another snapshot than the one it was made from",
                  parent.path_);
    }
    if (parent.manifest_.memory_size() != manifest_.memory_size()) {
      return fail("its parent has another size of memory");
    }
    for (const auto& disk : manifest_.disks) {
      if (disk.layer) TRY(check_layer(disk, parent.manifest_));
    }
    layers_ = std::move(parent.layers_);
  }
  layers_.push_back({TRY(open_file(path_ + "/" + std::string(kMemoryFile))), std::move(layer)});
  return {};
}

Result<MemoryLayer> Reader::read_state() {
  const auto bytes =
      TRY(read_text_file(path_ + "/" + std::string(kStateFile), std::size_t{1} << 30));
  state_size_ = bytes.size();
  if (digest_of(bytes) != manifest_.state_digest) {
    return fail("the digest of its file '{}' does not fit: it was altered or cut off", kStateFile);
  }
  sections_ =
      TRY(state::Sections::from_bytes(std::as_bytes(std::span(bytes.data(), bytes.size()))));
  auto layer = TRY(sections_.take<MemoryLayer>(kMemorySection));
  std::uint64_t end = 0;
  const std::uint64_t size = manifest_.memory_size();
  for (const auto& extent : layer.extents) {
    if (extent.offset < end || extent.offset % 4096 != 0 || extent.length % 4096 != 0 ||
        extent.offset > size || extent.length > size - extent.offset) {
      return fail("it has pages at {:#x}+{:#x} of {:#x} bytes of memory", extent.offset,
                  extent.length, size);
    }
    end = extent.offset + extent.length;
  }
  return layer;
}

Result<void> Reader::check_digest(const std::string& file, std::uint64_t size,
                                  const std::string& digest, Verify verify) const {
  const auto fd = TRY(open_file(path_ + "/" + file));
  struct stat status{};
  if (::fstat(fd.get(), &status) < 0) return fail_errno("cannot examine its file '{}'", file);
  if (static_cast<std::uint64_t>(status.st_size) != size) {
    return fail("its file '{}' has {} bytes instead of {}", file, status.st_size, size);
  }
  if (verify == Verify::sealed && is_sealed(path_, file)) return {};
  if (TRY(digest_of_sparse(fd.get(), size)) != digest) {
    return fail("the digest of its file '{}' does not fit: it was altered", file);
  }
  return {};
}

Result<void> Reader::check_large_files(Verify verify) const {
  TRY(check_digest(std::string(kMemoryFile), manifest_.memory_size(), manifest_.memory_digest,
                   verify));
  for (const auto& disk : manifest_.disks) {
    if (!disk.file.empty()) {
      TRY(check_digest(disk.file, disk.layer ? disk.file_size : disk.size, disk.digest, verify));
      continue;
    }
    struct stat status{};
    if (::stat(disk.path.c_str(), &status) < 0) {
      return fail("its read-only disk '{}' is missing", disk.path);
    }
    if (nanoseconds(status.st_mtim) != disk.modified_ns) {
      return fail("its read-only disk '{}' was changed since", disk.path);
    }
  }
  return {};
}

// What it names as its backing file would be opened: it must be the parent's, and nothing else.
Result<void> Reader::check_layer(const DiskEntry& disk, const Manifest& parent) const {
  const auto* below = parent.disk(disk.device);
  if (below == nullptr || below->file.empty() || below->size != disk.size) {
    return fail("its file '{}' does not fit the disks of its parent", disk.file);
  }
  const auto image = TRY(disk::qcow2::Chain::open(
      {.path = disk_path(disk), .format = image_format(disk), .read_only = true},
      disk::qcow2::Chain::Follow::none));
  const auto& header = image->top().header();
  if (header.size != disk.size || header.backing_path != backing_path(*manifest_.parent, *below) ||
      header.backing_format != disk::qcow2::format_name(image_format(*below))) {
    return fail("its file '{}' is not a layer over '{}' of its parent", disk.file, below->file);
  }
  return {};
}

std::string Reader::disk_path(const DiskEntry& disk) const {
  return disk.file.empty() ? disk.path : path_ + "/" + disk.file;
}

Result<std::unique_ptr<GuestMemory>> Reader::map_memory() const {
  std::vector<FilePart> parts = {{0, manifest_.memory_size(), layers_.front().file.get()}};
  std::size_t extents = 0;
  for (const auto& layer : layers_) extents += layer.content.extents.size();
  const bool map_all = extents <= kMaxMappings;
  for (const auto& layer : layers_) {
    for (const auto& extent : layer.content.extents) {
      if (map_all) parts.push_back({extent.offset, extent.length, layer.file.get()});
    }
  }
  auto memory = TRY(GuestMemory::create(manifest_.memory, parts));
  if (map_all) return memory;
  for (const auto& layer : layers_) {
    for (const auto& extent : layer.content.extents) {
      for (const auto& region : memory->regions()) {
        const auto piece = region.piece(extent.offset, extent.length);
        if (!piece.bytes.empty()) TRY(read_exact_at(layer.file.get(), piece.bytes, piece.offset));
      }
    }
  }
  return memory;
}

Result<std::vector<Extent>> Reader::data_extents() const {
  std::vector<Extent> result;
  const int fd = layers_.front().file.get();
  const auto size = static_cast<off_t>(manifest_.memory_size());
  for (off_t at = 0; at < size;) {
    const off_t data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) return fail_errno("cannot find the data of '{}'", path_);
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    const off_t end = hole < 0 ? size : std::min(hole, size);
    // Whole pages: a file system may have smaller blocks.
    const auto first = static_cast<std::uint64_t>(data) / 4096 * 4096;
    const auto last = (static_cast<std::uint64_t>(end) + 4095) / 4096 * 4096;
    result.push_back({first, last - first});
    at = end;
  }
  for (const auto& layer : layers_) {
    result.insert(result.end(), layer.content.extents.begin(), layer.content.extents.end());
  }
  // Sorted, and one where they touch.
  std::ranges::sort(result, {}, &Extent::offset);
  std::vector<Extent> merged;
  for (const auto& extent : result) {
    if (!merged.empty() && extent.offset <= merged.back().offset + merged.back().length) {
      auto& last = merged.back();
      last.length =
          std::max(last.offset + last.length, extent.offset + extent.length) - last.offset;
    } else {
      merged.push_back(extent);
    }
  }
  return merged;
}

}  // namespace vmm::snapshot
