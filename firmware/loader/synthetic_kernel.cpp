#include "firmware/loader/synthetic_kernel.h"

#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "firmware/little_endian.h"

namespace vmm::loader::testing {
namespace {

void put_text(Bytes& bytes, std::size_t at, std::string_view text) {
  std::memcpy(bytes.data() + at, text.data(), text.size());
}

// Compressible, and not the same anywhere; every 16th byte is the opcode that the BCJ filter of xz
// looks for.
void fill(std::span<std::byte> bytes) {
  std::uint32_t state = 1;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    state = state * 1664525 + 1013904223;
    bytes[i] = i % 16 == 0 ? std::byte{0xe8} : static_cast<std::byte>(state >> 28);
  }
}

void put_program_header(Bytes& elf, std::size_t index, std::uint32_t type, std::uint64_t offset,
                        std::uint64_t address, std::uint64_t file_size, std::uint64_t memory_size) {
  const std::size_t at = 64 + index * 56;
  put_le(elf, at, type);
  put_le(elf, at + 8, offset);
  put_le(elf, at + 16, address + 0xffffffff80000000);
  put_le(elf, at + 24, address);
  put_le(elf, at + 32, file_size);
  put_le(elf, at + 40, memory_size);
  put_le(elf, at + 48, std::uint64_t{4});
}

Bytes compress_gzip(std::span<const std::byte> in) {
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  Bytes out(deflateBound(&stream, in.size()));
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(in.data()));
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// As scripts/xz_wrap.sh of Linux does: the x86 filter, LZMA2, CRC32.
Bytes compress_xz(std::span<const std::byte> in) {
  lzma_options_lzma options;
  lzma_lzma_preset(&options, 6);
  const std::array<lzma_filter, 3> filters = {
      {{LZMA_FILTER_X86, nullptr}, {LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, nullptr}}};
  Bytes out(lzma_stream_buffer_bound(in.size()));
  std::size_t size = 0;
  const lzma_ret status =
      lzma_stream_buffer_encode(const_cast<lzma_filter*>(filters.data()), LZMA_CHECK_CRC32, nullptr,
                                reinterpret_cast<const std::uint8_t*>(in.data()), in.size(),
                                reinterpret_cast<std::uint8_t*>(out.data()), &size, out.size());
  out.resize(status == LZMA_OK ? size : 0);
  return out;
}

Bytes compress_lz4(std::span<const std::byte> in) {
  constexpr std::size_t kBlock = 8u << 20;
  Bytes out;
  append_le(out, std::uint32_t{0x184c2102});
  while (!in.empty()) {
    const auto block = in.first(std::min(in.size(), kBlock));
    Bytes packed(static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(block.size()))));
    const int size = LZ4_compress_default(
        reinterpret_cast<const char*>(block.data()), reinterpret_cast<char*>(packed.data()),
        static_cast<int>(block.size()), static_cast<int>(packed.size()));
    append_le(out, static_cast<std::uint32_t>(size));
    out.insert(out.end(), packed.begin(), packed.begin() + size);
    in = in.subspan(block.size());
  }
  return out;
}

Bytes compress_zstd(std::span<const std::byte> in) {
  Bytes out(ZSTD_compressBound(in.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), in.data(), in.size(), 3));
  return out;
}

Bytes magic_only(std::string_view magic) {
  Bytes out(4096);
  put_text(out, 0, magic);
  return out;
}

}  // namespace

Bytes make_elf(const ElfOptions& options) {
  Bytes elf(kDataOffset + kDataSize);
  fill(std::span(elf).subspan(kTextOffset));
  put_text(elf, 0,
           "\x7f"
           "ELF\x02\x01\x01");
  put_le(elf, 16, std::uint16_t{2});  // ET_EXEC
  put_le(elf, 18, options.machine);
  put_le(elf, 20, std::uint32_t{1});
  put_le(elf, 24, options.entry);
  put_le(elf, 32, std::uint64_t{64});
  put_le(elf, 52, std::uint16_t{64});
  put_le(elf, 54, std::uint16_t{56});
  put_le(elf, 56, std::uint16_t{3});
  // Not in the order of addresses, which the format does not ask for.
  put_program_header(elf, 0, 1, kDataOffset, options.text + kDataDistance, kDataSize,
                     kDataMemorySize);
  put_program_header(elf, 1, 1, kTextOffset, options.text, kTextSize, kTextSize);
  constexpr std::size_t kNotes = kTextOffset + 0x800;
  constexpr std::size_t kNotesSize = 20 + 24 + 24;
  put_program_header(elf, 2, 4, kNotes, options.text + 0x800, kNotesSize, kNotesSize);
  // "GNU", of another type, comes first.
  put_le(elf, kNotes, std::uint32_t{4});
  put_le(elf, kNotes + 4, std::uint32_t{3});  // padded to four
  put_le(elf, kNotes + 8, std::uint32_t{18});
  put_text(elf, kNotes + 12, std::string_view("GNU\0abc\0", 8));
  put_le(elf, kNotes + 20, std::uint32_t{4});
  put_le(elf, kNotes + 24, std::uint32_t{8});
  put_le(elf, kNotes + 28, std::uint32_t{options.pvh_entry ? 18u : 6u});
  put_text(elf, kNotes + 32, std::string_view("Xen\0", 4));
  put_le(elf, kNotes + 36, options.pvh_entry.value_or(0));
  put_le(elf, kNotes + 44, std::uint32_t{6});
  put_le(elf, kNotes + 48, std::uint32_t{4});
  put_le(elf, kNotes + 52, std::uint32_t{0x101});
  put_text(
      elf, kNotes + 56,
      options.is_linux ? std::string_view("Linux\0\0\0", 8) : std::string_view("Other\0\0\0", 8));
  put_le(elf, kNotes + 64, std::uint32_t{0});
  return elf;
}

Bytes compress(std::span<const std::byte> bytes, Compression kind) {
  switch (kind) {
    case Compression::gzip:
      return compress_gzip(bytes);
    case Compression::xz:
      return compress_xz(bytes);
    case Compression::lz4:
      return compress_lz4(bytes);
    case Compression::zstd:
      return compress_zstd(bytes);
    case Compression::bzip2:
      return magic_only("BZh9");
    case Compression::lzma:
      return magic_only(std::string_view("\x5d\0\0", 3));
    case Compression::lzo:
      return magic_only("\x89LZO");
    case Compression::unknown:
      break;
  }
  return magic_only("????");
}

Bytes make_bzimage(std::span<const std::byte> payload, Compression kind,
                   const BzImageOptions& options) {
  constexpr std::size_t kSetup = 4 * 512;   // the boot sector and three more
  constexpr std::size_t kPayload = 0x1000;  // from the start of the code
  Bytes stream = compress(payload, kind);
  // gzip has the size at its end already.
  if (kind != Compression::gzip) append_le(stream, static_cast<std::uint32_t>(payload.size()));
  const std::size_t code_size = (kPayload + stream.size() + 15) & ~std::size_t{15};
  Bytes image(kSetup + code_size);
  fill(std::span(image).subspan(kSetup, kPayload));
  put_le(image, 0x1f1, std::uint8_t{3});
  put_le(image, 0x1f4, static_cast<std::uint32_t>(code_size / 16));
  put_le(image, 0x1fe, std::uint16_t{0xaa55});
  put_le(image, 0x200, std::uint16_t{0x6aeb});  // jmp over the header
  put_text(image, 0x202, "HdrS");
  put_le(image, 0x206, options.version);
  put_le(image, 0x211, options.load_flags);
  put_le(image, 0x22c, std::uint32_t{0x7fffffff});
  put_le(image, 0x230, std::uint32_t{0x200000});
  put_le(image, 0x234, std::uint8_t{1});
  put_le(image, 0x236, options.extended_load_flags);
  put_le(image, 0x238, std::uint32_t{2047});
  put_le(image, 0x248, static_cast<std::uint32_t>(kPayload));
  put_le(image, 0x24c, static_cast<std::uint32_t>(stream.size()));
  put_le(image, 0x258, options.preferred_address);
  put_le(image, 0x260, options.init_size);
  std::ranges::copy(stream, image.begin() + kSetup + kPayload);
  return image;
}

TemporaryDirectory::TemporaryDirectory() {
  std::string name = std::filesystem::temp_directory_path() / "vmm-loader-XXXXXX";
  if (::mkdtemp(name.data()) != nullptr) path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryDirectory::file(const std::string& name,
                                     std::span<const std::byte> bytes) const {
  const std::string path = path_ + "/" + name;
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  return path;
}

}  // namespace vmm::loader::testing
