#include "src/hypervisor/snapshot/merge.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "src/disk/qcow2/data_size.h"
#include "src/hypervisor/snapshot/chunks.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/disk_file.h"
#include "src/hypervisor/snapshot/files.h"
#include "src/hypervisor/snapshot/writer.h"

namespace vmm::snapshot {
namespace {

constexpr std::uint64_t kPiece = 16u << 20;  // that the kernel copies at once

Result<void> copy_disk(const Reader& reader, const DiskEntry& disk, const Writer& writer,
                       Progress& progress) {
  const auto from = TRY(open_part(reader.directory(), disk.file));
  const auto to = TRY(writer.create_file(disk.file));
  if (const auto copied = copy_sparse(from.get(), to.get(), disk.size, progress); !copied) {
    return fail("cannot write '{}': {}", writer.path_of(disk.file), copied.error().message());
  }
  if (::fdatasync(to.get()) < 0) return fail_errno("cannot sync the copy of '{}'", disk.file);
  if (TRY(digest_of_sparse(to.get(), disk.size, progress)) != disk.digest) {
    return fail("digest mismatch of its file '{}': it was altered", disk.file);
  }
  return {};
}

static_assert(kChunk == disk::CopiedDisk::kChunk);

// A layer and what is behind it become a raw copy.
Result<DiskEntry> merge_disk(const Reader& reader, const DiskEntry& disk, const Writer& writer,
                             Progress& progress) {
  const auto chain = TRY(open_disk_file(reader.disk_path(disk), disk));
  DiskEntry merged = disk;
  merged.layer = false;
  merged.file_size = 0;
  auto target = TRY(create_copy(writer, merged, -1));
  const auto named = [&](Result<void> result) -> Result<void> {
    if (result) return result;
    return fail("cannot write '{}': {}", writer.path_of(merged.file), result.error().message());
  };
  const auto write = [&](std::uint64_t number, auto chunk) {
    return named(target->write(number * kChunk, chunk));
  };
  TRY(for_each_chunk(*chain, write, progress));
  TRY(named(target->finish()));
  TRY(complete_entry(writer, merged, progress));
  return merged;
}

Result<std::vector<BootFile>> copy_boot(const Reader& reader, const Writer& writer,
                                        Progress& progress) {
  auto copies = TRY(keep_boot_files(writer, reader.boot(), nullptr, progress));
  for (std::size_t i = 0; i < copies.size(); ++i) {
    if (copies[i].digest == reader.manifest().boot[i].digest) continue;
    return fail("digest mismatch of its file '{}': it was altered", copies[i].name);
  }
  return copies;
}

// All is written, and read again for its digest.
Result<std::uint64_t> size_of_work(const Reader& reader, std::span<const Extent> memory,
                                   Progress& progress) {
  std::uint64_t total = 0;
  for (const auto& extent : memory) total += extent.length;
  for (const auto& file : reader.manifest().boot) total += file.size;
  for (const auto& disk : reader.manifest().disks) {
    if (!disk.file.empty()) total += TRY(disk_data(reader, disk, progress));
  }
  return 2 * total;
}

}  // namespace

Result<std::uint64_t> disk_data(const Reader& reader, const DiskEntry& disk, Progress& progress) {
  const auto chain = TRY(open_disk_file(reader.disk_path(disk), disk));
  const auto size = disk::qcow2::data_size(*chain, progress);
  if (!size) return fail_errno_text(size.error(), fmt::format("cannot read '{}'", chain->name()));
  return *size;
}

Result<std::vector<std::byte>> complete_state(const Reader& reader) {
  if (reader.depth() == 1) {
    const auto text = TRY(read_part(reader.directory(), kStateFile, state::kMaxBytes));
    const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
    if (digest_of(bytes) != reader.manifest().state_digest) {
      return fail("'{}/{}' was altered", reader.directory(), kStateFile);
    }
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  }
  auto sections = reader.sections();
  TRY(sections.replace(kMemorySection, MemoryLayer{}));
  return sections.to_bytes();
}

Result<void> copy_sparse(int from, int to, std::uint64_t size, Progress& progress) {
  if (::ioctl(to, FICLONE, from) == 0) return progress.advance(sparse_size(from, size));
  if (::ftruncate(to, static_cast<off_t>(size)) < 0) return fail_errno("cannot make room");
  bool copied = true;
  for (std::uint64_t at = 0; at < size && copied;) {
    const auto data = TRY(next_data(from, at, size));
    for (at = data.offset; at < data.end() && copied;) {
      auto in = static_cast<off_t>(at), out = in;
      const auto n = ::copy_file_range(from, &in, to, &out, std::min(data.end() - at, kPiece), 0);
      copied = n > 0;
      if (!copied) break;
      at += static_cast<std::uint64_t>(n);
      TRY(progress.advance(static_cast<std::uint64_t>(n)));
    }
  }
  if (copied) return {};
  // Between two file systems, or on one that does not know: by hand.
  const auto write = [&](std::uint64_t number, auto chunk) {
    return write_all_at(to, chunk, number * kChunk);
  };
  return for_each_chunk(from, size, write, progress);
}

Result<std::string> merge(const Reader& reader, const std::string& directory, Progress& progress) {
  const auto writer = TRY(Writer::create(directory));
  Manifest manifest = reader.manifest();
  manifest.parent.reset();
  const auto pages = TRY(reader.data_extents());
  progress.begin("merging", TRY(size_of_work(reader, pages, progress)));
  manifest.memory_digest = TRY(write_memory(*writer, *TRY(reader.map_memory()), pages, progress));
  manifest.boot = TRY(copy_boot(reader, *writer, progress));
  for (auto& disk : manifest.disks) {
    if (disk.layer) {
      disk = TRY(merge_disk(reader, disk, *writer, progress));
    } else if (!disk.file.empty()) {
      TRY(copy_disk(reader, disk, *writer, progress));
    }
  }
  const auto state = TRY(complete_state(reader));
  manifest.state_digest = digest_of(state);
  TRY(writer->write_file(kStateFile, state));
  TRY(writer->publish(manifest));
  return digest_in(to_text(manifest));
}

}  // namespace vmm::snapshot
