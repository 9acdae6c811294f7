#include "src/hypervisor/snapshot/reader.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>

#include "src/base/file_time.h"
#include "src/hypervisor/snapshot/catalog.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/disk_file.h"
#include "src/hypervisor/snapshot/files.h"
#include "src/hypervisor/snapshot/seal.h"

namespace vmm::snapshot {
namespace {

// A process has 65530 mappings by default (vm.max_map_count); beyond this many, changed pages are
// read instead.
constexpr std::size_t kMaxMappings = 20'000;

// The chain of images is that of snapshots, with one above that a machine writes to.
static_assert(kMaxDepth < disk::qcow2::kMaxChain);

}  // namespace

Result<std::unique_ptr<Reader>> Reader::open(const std::string& directory, Verify verify,
                                             Hosts hosts, Progress& progress) {
  std::unique_ptr<Reader> reader(new Reader(directory));
  if (const auto result = reader->read(verify, hosts, progress); !result) {
    return fail("snapshot '{}': {}", directory, result.error().message());
  }
  return reader;
}

Result<void> Reader::read(Verify verify, Hosts hosts, Progress& progress) {
  std::vector<std::unique_ptr<Reader>> parents;  // the nearest first
  TRY(read_own(hosts));
  for (const Reader* child = this; child->manifest_.parent; child = parents.back().get()) {
    if (parents.size() + 1 == kMaxDepth) return fail("it has more than {} parents", kMaxDepth - 1);
    std::unique_ptr<Reader> parent(new Reader(parent_directory(child->path_, child->manifest_)));
    TRY(parent->named_as_parent(parent->read_own(hosts)));
    parents.push_back(std::move(parent));
  }
  TRY(check_large_files(parents, verify, progress));
  const Reader* child = this;
  for (const auto& parent : parents) {
    TRY(child->check_parent(*parent));
    child = parent.get();
  }
  for (auto& parent : parents) {
    layers_.push_back(std::move(parent->layers_.front()));
    // What it has of its own, or left to its parent; its boot_ is of no use to anybody else.
    if (!boot_.kernel) boot_.kernel = std::move(parent->boot_.kernel);
    if (!boot_.initrd) boot_.initrd = std::move(parent->boot_.initrd);
  }
  if (manifest_.boot.empty()) boot_.kernel = {};
  if (manifest_.boot.size() < 2) boot_.initrd = {};
  note_times(boot_);
  std::ranges::reverse(layers_);
  return {};
}

Result<void> Reader::read_own(Hosts hosts) {
  struct stat status{};
  if (::stat(path_.c_str(), &status) < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return fail("there is no such directory");
    return fail_errno("cannot examine it");
  }
  if (!S_ISDIR(status.st_mode)) return fail("it is not a directory");
  const auto text = read_part(path_, kManifestFile, kMaxManifest);
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
  layers_.push_back({TRY(open_part(path_, kMemoryFile)), std::move(layer)});
  return open_own_boot();
}

Result<void> Reader::open_own_boot() {
  for (const auto& file : manifest_.boot) {
    if (file.of_parent) continue;
    (file.name == kKernelFile ? boot_.kernel : boot_.initrd) = TRY(open_part(path_, file.name));
  }
  return {};
}

Result<void> Reader::check_parent(const Reader& parent) const {
  if (parent.digest_ != manifest_.parent->digest) {
    return fail("its parent '{}' is another snapshot than the one it was made from", parent.path_);
  }
  if (parent.manifest_.memory_size() != manifest_.memory_size()) {
    return fail("its parent '{}' has another size of memory", parent.path_);
  }
  for (const auto& file : manifest_.boot) {
    if (!file.of_parent) continue;
    const auto same = std::ranges::find(parent.manifest_.boot, file.name, &BootFile::name);
    if (same == parent.manifest_.boot.end() || same->size != file.size ||
        same->digest != file.digest) {
      return fail("its parent '{}' does not have its file '{}'", parent.path_, file.name);
    }
  }
  for (const auto& disk : manifest_.disks) {
    if (disk.layer) TRY(check_layer(disk, parent.manifest_));
  }
  return {};
}

Result<MemoryLayer> Reader::read_state() {
  const auto bytes = TRY(read_part(path_, kStateFile, state::kMaxBytes));
  state_size_ = bytes.size();
  if (digest_of(bytes) != manifest_.state_digest) {
    return fail("digest mismatch of its file '{}': it was altered or cut off", kStateFile);
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

Result<std::vector<KeptFile>> Reader::check_sizes(Verify verify) const {
  auto files = manifest_.files();
  files.push_back({std::string(kMemoryFile), manifest_.memory_size(), manifest_.memory_digest});
  for (const auto& disk : manifest_.disks) {
    // Else it may have moved: a restore looks at the file that its person names.
    if (!disk.file.empty() || verify != Verify::all) continue;
    struct stat status{};
    if (::stat(disk.path.c_str(), &status) < 0) {
      return fail("its read-only disk '{}' is missing", disk.path);
    }
    if (nanoseconds(status.st_mtim) != disk.modified_ns) {
      return fail("its read-only disk '{}' was changed since", disk.path);
    }
  }
  for (const auto& file : files) {
    const auto fd = TRY(open_part(path_, file.name));
    struct stat status{};
    if (::fstat(fd.get(), &status) < 0)
      return fail_errno("cannot examine its file '{}'", file.name);
    if (static_cast<std::uint64_t>(status.st_size) != file.size) {
      return fail("its file '{}' has {} bytes instead of {}", file.name, status.st_size, file.size);
    }
  }
  std::erase_if(files, [&](const KeptFile& file) {
    return verify == Verify::structure || (verify == Verify::sealed && is_sealed(path_, file.name));
  });
  return files;
}

Result<std::uint64_t> Reader::size_of(std::span<const KeptFile> files) const {
  std::uint64_t total = 0;
  for (const auto& file : files) {
    total += sparse_size(TRY(open_part(path_, file.name)).get(), file.size);
  }
  return total;
}

Result<void> Reader::compare(std::span<const KeptFile> files, Progress& progress) const {
  for (const auto& file : files) {
    const auto fd = TRY(open_part(path_, file.name));
    if (TRY(digest_of_sparse(fd.get(), file.size, progress)) != file.digest) {
      return fail("digest mismatch of its file '{}': it was altered", file.name);
    }
  }
  return {};
}

Result<void> Reader::named_as_parent(Result<void> result) const {
  if (result) return result;
  return fail("its parent '{}': {}", path_, result.error().message());
}

Result<void> Reader::check_large_files(std::span<const std::unique_ptr<Reader>> parents,
                                       Verify verify, Progress& progress) const {
  struct Task {
    const Reader* reader;
    std::vector<KeptFile> files;
  };
  std::vector<Task> tasks;
  std::uint64_t total = 0;
  const auto add = [&](const Reader& reader) -> Result<void> {
    tasks.push_back({&reader, TRY(reader.check_sizes(verify))});
    total += TRY(reader.size_of(tasks.back().files));
    return {};
  };
  TRY(add(*this));
  for (const auto& parent : parents) TRY(parent->named_as_parent(add(*parent)));
  if (total == 0) return {};
  progress.begin("verifying", total);
  for (const auto& [reader, files] : tasks) {
    auto compared = reader->compare(files, progress);
    TRY(reader == this ? compared : reader->named_as_parent(compared));
  }
  return {};
}

// What it names as its backing file would be opened: it must be the parent's, and nothing else.
Result<void> Reader::check_layer(const DiskEntry& disk, const Manifest& parent) const {
  const auto* below = parent.disk(disk.device);
  if (below == nullptr || below->file.empty() || below->size != disk.size) {
    return fail("its file '{}' does not match the disks of its parent", disk.file);
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
  const std::uint64_t size = manifest_.memory_size();
  for (std::uint64_t at = 0; at < size;) {
    const auto data = next_data(fd, at, size);
    if (!data) return fail("memory of '{}': {}", path_, data.error().message());
    if (data->length == 0) break;
    // Whole pages: a file system may have smaller blocks.
    const std::uint64_t first = data->offset / 4096 * 4096;
    result.push_back({first, (data->end() + 4095) / 4096 * 4096 - first});
    at = data->end();
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
