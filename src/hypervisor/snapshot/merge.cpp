#include "src/hypervisor/snapshot/merge.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "src/hypervisor/snapshot/chunks.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/disk_file.h"
#include "src/hypervisor/snapshot/writer.h"

namespace vmm::snapshot {
namespace {

Result<void> copy_disk(const Reader& reader, const DiskEntry& disk, const Writer& writer) {
  const auto from = TRY(open_file(reader.disk_path(disk), O_RDONLY));
  const auto to = TRY(writer.create_file(disk.file));
  if (const auto copied = copy_sparse(from.get(), to.get(), disk.size); !copied) {
    return fail("cannot copy disk '{}': {}", disk.file, copied.error().message());
  }
  if (::fdatasync(to.get()) < 0) return fail_errno("cannot sync the copy of '{}'", disk.file);
  if (TRY(digest_of_sparse(to.get(), disk.size)) != disk.digest) {
    return fail("the digest of its file '{}' does not fit: it was altered", disk.file);
  }
  return {};
}

static_assert(kChunk == disk::CopiedDisk::kChunk);

// A layer and what is behind it become a raw copy.
Result<DiskEntry> merge_disk(const Reader& reader, const DiskEntry& disk, const Writer& writer) {
  const auto chain = TRY(open_disk_file(reader.disk_path(disk), disk));
  DiskEntry merged = disk;
  merged.layer = false;
  merged.file_size = 0;
  auto target = TRY(create_copy(writer, merged, -1));
  TRY(for_each_chunk(*chain, [&](std::uint64_t number, auto chunk) {
    return target->write(number * kChunk, chunk);
  }));
  TRY(target->finish());
  TRY(complete_entry(writer, merged));
  return merged;
}

}  // namespace

Result<std::vector<std::byte>> complete_state(const Reader& reader) {
  if (reader.depth() == 1) {
    const auto path = reader.directory() + "/" + std::string(kStateFile);
    const auto text = TRY(read_text_file(path, std::size_t{1} << 30));
    const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
    if (digest_of(bytes) != reader.manifest().state_digest) return fail("'{}' was altered", path);
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  }
  auto sections = reader.sections();
  TRY(sections.replace(kMemorySection, MemoryLayer{}));
  return sections.to_bytes();
}

Result<void> copy_sparse(int from, int to, std::uint64_t size) {
  if (::ioctl(to, FICLONE, from) == 0) return {};
  if (::ftruncate(to, static_cast<off_t>(size)) < 0) return fail_errno("cannot make room");
  off_t at = 0;
  const auto end_of_file = static_cast<off_t>(size);
  while (at < end_of_file) {
    const off_t data = ::lseek(from, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};
    if (data < 0) break;
    const off_t hole = ::lseek(from, data, SEEK_HOLE);
    const off_t end = hole < 0 ? end_of_file : std::min(hole, end_of_file);
    for (at = data; at < end;) {
      off_t in = at, out = at;
      const auto n = ::copy_file_range(from, &in, to, &out, static_cast<std::size_t>(end - at), 0);
      if (n <= 0) break;
      at += n;
    }
    if (at < end) break;
  }
  if (at >= end_of_file) return {};
  // Between two file systems, or on one that does not know: by hand.
  return for_each_chunk(from, size, [&](std::uint64_t number, auto chunk) {
    return write_all_at(to, chunk, number * kChunk);
  });
}

Result<std::string> merge(const Reader& reader, const std::string& directory) {
  const auto writer = TRY(Writer::create(directory));
  Manifest manifest = reader.manifest();
  manifest.parent.reset();
  manifest.memory_digest =
      TRY(write_memory(*writer, *TRY(reader.map_memory()), TRY(reader.data_extents())));
  for (auto& disk : manifest.disks) {
    if (disk.layer) {
      disk = TRY(merge_disk(reader, disk, *writer));
    } else if (!disk.file.empty()) {
      TRY(copy_disk(reader, disk, *writer));
    }
  }
  const auto state = TRY(complete_state(reader));
  manifest.state_digest = digest_of(state);
  TRY(writer->write_file(kStateFile, state));
  TRY(writer->publish(manifest));
  return digest_in(to_text(manifest));
}

}  // namespace vmm::snapshot
