#include "src/hypervisor/snapshot/import.h"

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
Result<void> for_each_chunk(PageStore& pages, const ArchiveFile& file, Visit visit) {
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
    return fail("the digest of its file '{}' does not fit", kStateFile);
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
  TRY(for_each_chunk(pages, file, [&](std::uint64_t number, auto chunk) -> Result<void> {
    std::memcpy(bytes.data() + number * kChunk, chunk.data(), chunk.size());
    return {};
  }));
  TRY(check_state(bytes, archive.manifest()));
  return bytes;
}

// Compares all with the digests, and makes the files where there is a writer.
class Importer {
 public:
  Importer(const ArchiveChain& chain, const Writer* writer)
      : archive_(*chain.back()), writer_(writer), pages_(chain) {}

  Result<void> run() {
    const auto& manifest = archive_.manifest();
    const auto& files = archive_.index().files;
    const auto state = TRY(state_of(archive_, pages_));
    if (writer_ != nullptr) TRY(writer_->write_file(kStateFile, state));
    for (std::size_t i = 0; i < manifest.disks.size(); ++i) {
      TRY(large(files[i + 1], manifest.disks[i].digest));
    }
    return large(files.back(), manifest.memory_digest);
  }

 private:
  Result<void> large(const ArchiveFile& file, const std::string& wanted) {
    if (writer_ == nullptr) return unpack_file(pages_, file, wanted, nullptr);
    const auto out = TRY(writer_->create_file(file.name));
    TRY(unpack_file(pages_, file, wanted, &out));
    if (::fdatasync(out.get()) < 0) return fail_errno("cannot sync '{}'", file.name);
    return {};
  }

  const Archive& archive_;
  const Writer* writer_;
  PageStore pages_;
};

Result<ArchiveChain> open_checked(const std::string& file, std::span<const std::string> bases) {
  auto archive = TRY(Archive::open(file));
  TRY(archive->check_digest());
  return chain_of(std::move(archive), bases);
}

Result<std::string> unpack(const ArchiveChain& chain, const Writer* writer) {
  const auto& archive = *chain.back();
  if (const auto result = Importer(chain, writer).run(); !result) {
    return fail("archive '{}': {}", archive.path(), result.error().message());
  }
  return digest_in(archive.index().manifest);
}

}  // namespace

Result<void> unpack_file(PageStore& pages, const ArchiveFile& file, const std::string& digest,
                         const UniqueFd* out) {
  if (out != nullptr && ::ftruncate(out->get(), static_cast<off_t>(file.size)) < 0) {
    return fail_errno("cannot make room for '{}' of {} bytes", file.name, file.size);
  }
  SparseDigest found;
  TRY(for_each_chunk(pages, file, [&](std::uint64_t number, auto chunk) -> Result<void> {
    found.add(number, chunk);
    return out != nullptr ? write_chunk(*out, number, chunk) : Result<void>();
  }));
  if (found.finish() != digest) return fail("the digest of its file '{}' does not fit", file.name);
  return {};
}

Result<std::vector<std::byte>> read_state(const ArchiveChain& chain) {
  PageStore pages(chain);
  return state_of(*chain.back(), pages);
}

Result<std::string> import_archive(const std::string& file, const std::string& directory,
                                   std::span<const std::string> bases) {
  const auto chain = TRY(open_checked(file, bases));
  const auto writer = TRY(Writer::create(directory));
  auto digest = TRY(unpack(chain, writer.get()));
  TRY(writer->publish(chain.back()->manifest()));
  return digest;
}

Result<std::string> verify_archive(const std::string& file, std::span<const std::string> bases) {
  return unpack(TRY(open_checked(file, bases)), nullptr);
}

}  // namespace vmm::snapshot
