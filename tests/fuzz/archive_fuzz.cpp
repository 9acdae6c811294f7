// The parts of an exported snapshot, and a whole one around them. The first byte picks.
#include <sys/mman.h>
#include <zstd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "src/hypervisor/snapshot/archive.h"
#include "src/hypervisor/snapshot/digest.h"
#include "src/hypervisor/snapshot/packed_memory.h"

namespace {

using namespace vmm;
using namespace vmm::snapshot;
using Bytes = std::span<const std::byte>;

void fuzz_header(Bytes input) {
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  const auto header = parse_archive_header(text);
  if (header && to_text(*header) != text) std::abort();
}

void fuzz_index(Bytes input) {
  constexpr std::uint64_t kPages = 1000;
  const auto index = decode_index(input, kPages);
  if (!index) return;
  for (const auto& file : index->files) {
    std::uint64_t end = 0;
    for (const auto& run : file.runs) {
      if (run.page < end || run.unique + run.count > kPages) std::abort();
      end = run.page + run.count;
    }
    if (end > (file.size + kArchivePage - 1) / kArchivePage) std::abort();
  }
  const auto again = decode_index(encode_index(*index), kPages);
  if (!again || again->files.size() != index->files.size()) std::abort();
}

void fuzz_seek_table(Bytes input) {
  if (input.size() < kSeekFooter) return;
  (void)seek_table_size(input.last<kSeekFooter>(), input.size());
  (void)decode_seek_table(input);
}

Result<std::unique_ptr<Archive>> archive_of(Bytes bytes) {
  UniqueFd file(::memfd_create("archive", MFD_CLOEXEC));
  if (!file) return fail_errno("memfd_create");
  TRY(write_all(file.get(), bytes));
  return Archive::open(std::move(file), "fuzz");
}

// What a page server does with each frame, within what the memory has.
void unpack_memory(std::unique_ptr<Archive> archive) {
  const std::uint64_t pages = archive->index().files.back().size / kArchivePage;
  const PackedMemory packed(std::move(archive));
  for (std::size_t i = 0; i < packed.frames(); ++i) {
    const auto decoded = packed.decode(i);
    if (!decoded) continue;
    const auto visited =
        packed.for_each_piece(i, *decoded, [&](std::uint64_t page, Bytes bytes) -> Result<void> {
          const std::uint64_t count = bytes.size() / kArchivePage;
          if (count == 0 || page >= pages || count > pages - page) std::abort();
          if (packed.frame_of(page) != i || !packed.has_pieces(i)) std::abort();
          return {};
        });
    if (!visited) std::abort();
  }
}

void open_file_of(Bytes bytes) {
  auto archive = archive_of(bytes);
  if (!archive) return;
  (void)(*archive)->check_digest();
  for (std::size_t i = 0; i < (*archive)->frames(); ++i) (void)(*archive)->read_frame(i);
  ArchiveChain chain;
  chain.push_back(std::move(*archive));
  PageStore pages(chain);
  for (const auto& file_of : chain.front()->index().files) {
    for (const auto& run : file_of.runs) (void)pages.read(run.unique, run.count);
  }
  if (chain.front()->header().base.empty()) unpack_memory(std::move(chain.front()));
}

std::vector<std::byte> frame_of(Bytes content) {
  std::vector<std::byte> frame(ZSTD_compressBound(content.size()));
  auto* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  frame.resize(ZSTD_compress2(context, frame.data(), frame.size(), content.data(), content.size()));
  ZSTD_freeCCtx(context);
  return frame;
}

// An archive whose other parts are right. Its unique pages are 0, 1, 2, in two frames.
std::vector<std::byte> around(Bytes index) {
  std::vector<std::byte> bytes;
  std::vector<SeekEntry> table;
  const auto append = [&](Bytes frame, std::size_t decoded) {
    bytes.insert(bytes.end(), frame.begin(), frame.end());
    table.push_back(
        {static_cast<std::uint32_t>(frame.size()), static_cast<std::uint32_t>(decoded)});
  };
  const auto header =
      to_text(ArchiveHeader{.architecture = "x86_64", .program = "0.1.0", .frame_pages = 2});
  std::vector<std::byte> pages(3 * kArchivePage);
  for (std::size_t i = 0; i < pages.size(); ++i) pages[i] = std::byte(i / kArchivePage + 1);
  append(skippable_frame(kHeaderMagic, std::as_bytes(std::span(header.data(), header.size()))), 0);
  append(frame_of(std::span(pages).first(2 * kArchivePage)), 2 * kArchivePage);
  append(frame_of(std::span(pages).last(kArchivePage)), kArchivePage);
  append(frame_of(index), index.size());
  Sha256 hash;
  hash.update(bytes);
  append(skippable_frame(kDigestMagic, hash.finish()), 0);
  const auto end = encode_seek_table(table);
  bytes.insert(bytes.end(), end.begin(), end.end());
  return bytes;
}

// The input as runs of the memory, three bytes each: a memory filled by frames is one filled by
// runs.
void fuzz_memory(Bytes input) {
  constexpr std::uint64_t kPages = 64;
  Manifest manifest{.architecture = "x86_64", .program = "0.1.0", .config = "{}"};
  manifest.memory = {{GuestAddress{0}, kPages / 4 * kArchivePage},
                     {GuestAddress{1u << 30}, kPages / 4 * 3 * kArchivePage}};
  ArchiveIndex index{to_text(manifest), {{"state", 0, {}}, {"memory", kPages * kArchivePage, {}}}};
  std::vector<std::uint8_t> expected(kPages);  // what each page is full of
  std::uint64_t page = 0;
  for (std::size_t i = 0; i + 2 < input.size(); i += 3) {
    page += std::to_integer<std::uint64_t>(input[i]) % 8;
    const std::uint64_t unique = std::to_integer<std::uint64_t>(input[i + 1]) % 3;
    const std::uint64_t count = 1 + std::to_integer<std::uint64_t>(input[i + 2]) % (3 - unique);
    if (page + count > kPages) break;
    index.files.back().runs.push_back({page, count, unique});
    for (std::uint64_t k = 0; k < count; ++k) {
      expected[page + k] = static_cast<std::uint8_t>(unique + k + 1);
    }
    page += count;
  }
  auto archive = archive_of(around(encode_index(index)));
  if (!archive) std::abort();
  const PackedMemory packed(std::move(*archive));
  const auto memory = GuestMemory::create(manifest.memory);
  if (!memory || !packed.fill(**memory)) std::abort();
  for (std::uint64_t i = 0; i < kPages; ++i) {
    for (const auto& region : (*memory)->regions()) {
      const auto bytes = region.piece(i * kArchivePage, kArchivePage).bytes;
      const auto is_right = [&](std::byte byte) { return byte == std::byte{expected[i]}; };
      if (!std::ranges::all_of(bytes, is_right)) std::abort();
    }
    if (packed.frame_of(i).has_value() != (expected[i] != 0)) std::abort();
    if (expected[i] == 0) {
      const auto zeroes = packed.zeroes_around(i, 0, kPages);
      if (zeroes.first > i || zeroes.first + zeroes.count <= i) std::abort();
    }
  }
  for (const auto& extent : packed.extents(kArchivePage, 4)) {
    if (extent.offset + extent.length > kPages * kArchivePage) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto input = std::as_bytes(std::span(data, size)).subspan(1);
  switch (data[0]) {
    case 'h':
      fuzz_header(input);
      break;
    case 'i':
      fuzz_index(input);
      break;
    case 's':
      fuzz_seek_table(input);
      break;
    case 'a':
      open_file_of(around(input));
      break;
    case 'm':
      fuzz_memory(input);
      break;
    default:
      open_file_of(std::as_bytes(std::span(data, size)));
  }
  return 0;
}
