#include "src/hypervisor/snapshot/import.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "src/hypervisor/snapshot/archive.h"
#include "src/hypervisor/snapshot/chunks.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/reader.h"
#include "src/hypervisor/snapshot/writer.h"

namespace vmm::snapshot {
namespace {

// As for_each_chunk() of chunks.h, out of an archive.
template <typename Visit>
Result<void> for_each_chunk(PageStore& pages, const ArchiveFile& file, Visit visit,
                            Progress& progress) {
  constexpr std::uint64_t kPages = kChunk / kArchivePage;
  std::vector<std::byte> buffer(kChunk);
  std::uint64_t current = 0;
  const auto flush = [&]() -> Result<void> {
    const std::uint64_t at = current * kChunk;
    const auto chunk = std::span<const std::byte>(buffer).first(
        std::min(kChunk, file.size - std::min(at, file.size)));
    if (is_zero(chunk)) return {};
    TRY(visit(current, chunk));
    std::ranges::fill(buffer, std::byte{0});
    return {};
  };
  for (auto run : file.runs) {
    while (run.count > 0) {
      if (run.page / kPages != current) {
        TRY(flush());
        current = run.page / kPages;
      }
      const std::uint64_t slot = run.page % kPages;
      const auto some = TRY(pages.read(run.unique, std::min(run.count, kPages - slot)));
      std::ranges::copy(some, buffer.begin() + static_cast<std::ptrdiff_t>(slot * kArchivePage));
      const std::uint64_t count = some.size() / kArchivePage;
      run.page += count;
      run.unique += count;
      run.count -= count;
      TRY(progress.advance(some.size()));
    }
  }
  return flush();
}

// The pages of a chunk that are not zero, so that the file is as sparse as it was.
Result<void> write_chunk(const UniqueFd& file, std::uint64_t number,
                         std::span<const std::byte> chunk) {
  const auto page = [&](std::size_t at) {
    return chunk.subspan(at, std::min<std::size_t>(kArchivePage, chunk.size() - at));
  };
  for (std::size_t at = 0; at < chunk.size();) {
    std::size_t end = at;
    while (end < chunk.size() && !is_zero(page(end))) end += kArchivePage;
    end = std::min(end, chunk.size());
    if (end > at) TRY(write_all_at(file.get(), chunk.subspan(at, end - at), number * kChunk + at));
    at = end + kArchivePage;
  }
  return {};
}

Result<void> check_state(std::span<const std::byte> bytes, const Manifest& manifest) {
  if (digest_of(bytes) != manifest.state_digest) {
    return fail("digest mismatch of its file '{}'", kStateFile);
  }
  auto sections = TRY(state::Sections::from_bytes(bytes));
  if (!TRY(sections.take<MemoryLayer>(kMemorySection)).complete) {
    return fail("its states do not fit its manifest");
  }
  return {};
}

Result<std::vector<std::byte>> state_of(const Archive& archive, PageStore& pages) {
  const auto& file = archive.index().files.front();
  std::vector<std::byte> bytes(file.size);
  const auto copy = [&](std::uint64_t number, auto chunk) -> Result<void> {
    std::memcpy(bytes.data() + number * kChunk, chunk.data(), chunk.size());
    return {};
  };
  TRY(for_each_chunk(pages, file, copy, Progress::none()));
  TRY(check_state(bytes, archive.manifest()));
  return bytes;
}

// Compares all with the digests, and makes the files where there is a writer.
class Importer {
 public:
  Importer(const ArchiveChain& chain, const Writer* writer, Progress& progress)
      : archive_(*chain.back()), writer_(writer), progress_(progress), pages_(chain) {}

  Result<void> run() {
    const auto kept = archive_.manifest().files();
    const auto& files = archive_.index().files;
    std::uint64_t total = 0;
    for (const auto& file : std::span(files).subspan(1)) total += file.data();
    progress_.begin(writer_ != nullptr ? "unpacking" : "verifying", total);
    const auto state = TRY(state_of(archive_, pages_));
    if (writer_ != nullptr) TRY(writer_->write_file(kStateFile, state));
    for (std::size_t i = 0; i < kept.size(); ++i) TRY(large(files[i + 1], kept[i].digest));
    return large(files.back(), archive_.manifest().memory_digest);
  }

 private:
  Result<void> large(const ArchiveFile& file, const std::string& wanted) {
    if (writer_ == nullptr) return unpack_file(pages_, file, wanted, nullptr, progress_);
    const auto out = TRY(writer_->create_file(file.name));
    TRY(unpack_file(pages_, file, wanted, &out, progress_));
    if (::fdatasync(out.get()) < 0) return fail_errno("cannot sync '{}'", file.name);
    return {};
  }

  const Archive& archive_;
  const Writer* writer_;
  Progress& progress_;
  PageStore pages_;
};

Result<ArchiveChain> open_checked(const std::string& file, std::span<const std::string> bases,
                                  Progress& progress) {
  auto archive = TRY(Archive::open(file));
  TRY(archive->check_digest(progress));
  return chain_of(std::move(archive), bases, progress);
}

Result<std::string> unpack(const ArchiveChain& chain, const Writer* writer, Progress& progress) {
  const auto& archive = *chain.back();
  if (const auto result = Importer(chain, writer, progress).run(); !result) {
    return fail("archive '{}': {}", archive.path(), result.error().message());
  }
  return digest_in(archive.index().manifest);
}

}  // namespace

Result<void> check_room(int fd, std::span<const ArchiveFile> files, const std::string& where) {
  struct statvfs room{};
  if (::fstatvfs(fd, &room) < 0) return fail_errno("cannot examine the file system of '{}'", where);
  if (room.f_blocks == 0) return {};  // it does not tell
  std::uint64_t wanted = 0;
  for (const auto& file : files) wanted += file.data();
  if (wanted / room.f_frsize < room.f_bavail) return {};
  constexpr double kMib = 1u << 20;
  return fail("it unpacks to {:.1f} MiB, '{}' has {:.1f} MiB free",
              static_cast<double>(wanted) / kMib, where,
              static_cast<double>(room.f_bavail) * static_cast<double>(room.f_frsize) / kMib);
}

Result<void> unpack_file(PageStore& pages, const ArchiveFile& file, const std::string& digest,
                         const UniqueFd* out, Progress& progress) {
  if (out != nullptr && ::ftruncate(out->get(), static_cast<off_t>(file.size)) < 0) {
    return fail_errno("cannot make room for '{}' of {} bytes", file.name, file.size);
  }
  SparseDigest found;
  const auto add = [&](std::uint64_t number, auto chunk) -> Result<void> {
    found.add(number, chunk);
    if (out == nullptr) return {};
    if (const auto written = write_chunk(*out, number, chunk); !written) {
      return fail("cannot write '{}': {}", file.name, written.error().message());
    }
    return {};
  };
  TRY(for_each_chunk(pages, file, add, progress));
  if (found.finish() != digest) return fail("digest mismatch of its file '{}'", file.name);
  return {};
}

Result<std::vector<std::byte>> read_state(const ArchiveChain& chain) {
  PageStore pages(chain);
  return state_of(*chain.back(), pages);
}

Result<std::string> import_archive(const std::string& file, const std::string& directory,
                                   std::span<const std::string> bases, Progress& progress) {
  const auto chain = TRY(open_checked(file, bases, progress));
  const auto writer = TRY(Writer::create(directory));
  const auto& archive = *chain.back();
  if (const auto room = check_room(writer->handle(), archive.index().files, directory); !room) {
    return fail("archive '{}': {}", archive.path(), room.error().message());
  }
  auto digest = TRY(unpack(chain, writer.get(), progress));
  TRY(writer->publish(chain.back()->manifest()));
  return digest;
}

Result<std::string> verify_archive(const std::string& file, std::span<const std::string> bases,
                                   Progress& progress) {
  return unpack(TRY(open_checked(file, bases, progress)), nullptr, progress);
}

}  // namespace vmm::snapshot
