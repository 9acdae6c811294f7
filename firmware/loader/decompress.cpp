#include "firmware/loader/decompress.h"

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "firmware/little_endian.h"

namespace vmm::loader {
namespace {

struct Format {
  Compression kind;
  std::string_view name;
  std::string_view magic;
};

using namespace std::string_view_literals;
constexpr std::array<Format, 7> kFormats = {{
    {Compression::gzip, "gzip", "\x1f\x8b"sv},
    {Compression::xz, "xz",
     "\xfd"
     "7zXZ\0"sv},
    {Compression::lz4, "lz4", "\x02\x21\x4c\x18"sv},
    {Compression::zstd, "zstd", "\x28\xb5\x2f\xfd"sv},
    {Compression::bzip2, "bzip2", "BZh"sv},
    {Compression::lzma, "lzma", "\x5d\0\0"sv},
    {Compression::lzo, "lzo", "\x89LZO"sv},
}};

constexpr std::uint32_t kLz4LegacyMagic = 0x184c2102;
constexpr std::uint64_t kXzMemoryLimit = 512u << 20;  // a dictionary of 128 MiB is the most in use

struct Decoded {
  std::uint64_t written = 0;
  std::uint64_t read = 0;
};

// Each decoder fills `out`, or fails.

Result<Decoded> gunzip(std::span<const std::byte> in, std::span<std::byte> out) {
  z_stream stream{};
  constexpr int kGzipOnly = 16 + MAX_WBITS;
  if (inflateInit2(&stream, kGzipOnly) != Z_OK) return fail("zlib has no memory");
  // zlib counts in 32 bits: hand over at most this much a call.
  constexpr std::size_t kStep = 1u << 30;
  int status = Z_OK;
  std::size_t read = 0;
  std::size_t written = 0;
  while (status == Z_OK) {
    const std::size_t offered = std::min(in.size() - read, kStep);
    const std::size_t room = std::min(out.size() - written, kStep);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(in.data() + read));
    stream.avail_in = static_cast<uInt>(offered);
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + written);
    stream.avail_out = static_cast<uInt>(room);
    status = inflate(&stream, Z_NO_FLUSH);
    read += offered - stream.avail_in;
    written += room - stream.avail_out;
    // No progress is Z_BUF_ERROR, so that the loop ends.
  }
  inflateEnd(&stream);
  if (status == Z_BUF_ERROR) {
    return fail("{}", read == in.size() ? "it is truncated" : "it is larger than it says");
  }
  if (status != Z_STREAM_END) return fail("it is corrupt");
  return Decoded{written, read};
}

Result<Decoded> unxz(std::span<const std::byte> in, std::span<std::byte> out) {
  std::uint64_t memory = kXzMemoryLimit;
  std::size_t read = 0;
  std::size_t written = 0;
  const lzma_ret status = lzma_stream_buffer_decode(
      &memory, 0, nullptr, reinterpret_cast<const std::uint8_t*>(in.data()), &read, in.size(),
      reinterpret_cast<std::uint8_t*>(out.data()), &written, out.size());
  switch (status) {
    case LZMA_OK:
      return Decoded{written, read};
    case LZMA_DATA_ERROR:
      // liblzma reports an end that is missing in this way as well.
      return fail("it is truncated or corrupt");
    case LZMA_BUF_ERROR:
      return fail("it is larger than it says, or truncated");
    case LZMA_MEMLIMIT_ERROR:
      return fail("it needs {} bytes of memory to decompress, more than {}", memory,
                  kXzMemoryLimit);
    default:
      return fail("it is corrupt (liblzma says {})", static_cast<int>(status));
  }
}

// The legacy frame has no end mark: blocks of a 32-bit size and the data, until the input ends or
// all is there. A size that is the magic starts a further frame.
Result<Decoded> unlz4(std::span<const std::byte> in, std::span<std::byte> out) {
  constexpr std::size_t kBlock = 8u << 20;  // the most that a block holds
  std::size_t read = 4;
  std::size_t written = 0;
  while (written < out.size() && in.size() - read >= 4) {
    const auto size = get_le<std::uint32_t>(in, read);
    read += 4;
    if (size == kLz4LegacyMagic) continue;
    if (size > in.size() - read) return fail("it is truncated");
    if (size > static_cast<std::size_t>(LZ4_COMPRESSBOUND(kBlock))) return fail("it is corrupt");
    const std::size_t room = std::min(out.size() - written, kBlock);
    const int got = LZ4_decompress_safe(reinterpret_cast<const char*>(in.data() + read),
                                        reinterpret_cast<char*>(out.data() + written),
                                        static_cast<int>(size), static_cast<int>(room));
    if (got < 0) return fail("it is corrupt, or larger than it says");
    read += size;
    written += static_cast<std::size_t>(got);
  }
  return Decoded{written, read};
}

Result<Decoded> unzstd(std::span<const std::byte> in, std::span<std::byte> out) {
  const std::size_t frame = ZSTD_findFrameCompressedSize(in.data(), in.size());
  if (ZSTD_isError(frame) != 0) return fail("it is truncated or corrupt");
  // From buffer to buffer no window is allocated, however large the frame wants it.
  const std::size_t written = ZSTD_decompress(out.data(), out.size(), in.data(), frame);
  if (ZSTD_isError(written) != 0) {
    return fail("it is corrupt, or larger than it says ({})", ZSTD_getErrorName(written));
  }
  return Decoded{written, frame};
}

Result<std::uint64_t> measure_zstd(std::span<const std::byte> in, std::uint64_t limit) {
  const unsigned long long said = ZSTD_getFrameContentSize(in.data(), in.size());
  if (said == ZSTD_CONTENTSIZE_ERROR) return fail("it is truncated or corrupt");
  if (said != ZSTD_CONTENTSIZE_UNKNOWN) return said;
  struct Release {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  const std::unique_ptr<ZSTD_DCtx, Release> context(ZSTD_createDCtx());
  if (context == nullptr) return fail("zstd has no memory");
  std::vector<std::byte> scratch(ZSTD_DStreamOutSize());
  ZSTD_inBuffer input{in.data(), in.size(), 0};
  std::uint64_t total = 0;
  for (;;) {
    ZSTD_outBuffer output{scratch.data(), scratch.size(), 0};
    const std::size_t before = input.pos;
    const std::size_t left = ZSTD_decompressStream(context.get(), &output, &input);
    if (ZSTD_isError(left) != 0) return fail("it is corrupt ({})", ZSTD_getErrorName(left));
    total += output.pos;
    if (left == 0 || total > limit) return total;
    if (input.pos == before && output.pos == 0) return fail("it is truncated");
  }
}

Result<Decoded> decode(Compression kind, std::span<const std::byte> in, std::span<std::byte> out) {
  switch (kind) {
    case Compression::gzip:
      return gunzip(in, out);
    case Compression::xz:
      return unxz(in, out);
    case Compression::lz4:
      return unlz4(in, out);
    case Compression::zstd:
      return unzstd(in, out);
    default:
      return fail("compression by {} is not supported", compression_name(kind));
  }
}

}  // namespace

Compression detect_compression(std::span<const std::byte> bytes) {
  for (const Format& format : kFormats) {
    if (bytes.size() >= format.magic.size() &&
        std::memcmp(bytes.data(), format.magic.data(), format.magic.size()) == 0) {
      return format.kind;
    }
  }
  return Compression::unknown;
}

std::string_view compression_name(Compression kind) {
  for (const Format& format : kFormats) {
    if (format.kind == kind) return format.name;
  }
  return "an unknown method";
}

bool is_supported(Compression kind) { return kind <= Compression::zstd; }

Result<std::uint64_t> uncompressed_size(Compression kind, std::span<const std::byte> stream,
                                        std::uint64_t limit) {
  if (kind != Compression::gzip && kind != Compression::zstd) {
    return fail("compression by {} does not say how much it holds", compression_name(kind));
  }
  if (stream.size() < 8) return fail("the {} payload is empty", compression_name(kind));
  const auto size = kind == Compression::gzip
                        ? std::uint64_t{get_le<std::uint32_t>(stream, stream.size() - 4)}
                        : TRY(measure_zstd(stream, limit));
  if (size > limit) {
    return fail("the {} payload has {} bytes when decompressed, more than {}",
                compression_name(kind), size, limit);
  }
  return size;
}

Result<Mapping> decompress(Compression kind, std::span<const std::byte> bytes, std::uint64_t size,
                           Rest rest) {
  if (!is_supported(kind)) {
    return fail("compression by {} is not supported, only gzip, xz, lz4 and zstd are",
                compression_name(kind));
  }
  if (size == 0 || bytes.size() < 8) return fail("the {} payload is empty", compression_name(kind));
  auto out = TRY(
      Mapping::create(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE));
  const auto decoded = decode(kind, bytes, out.bytes());
  if (!decoded) {
    return fail("the {} payload cannot be decompressed: {}", compression_name(kind),
                decoded.error().message());
  }
  if (decoded->written != size) {
    return fail("the {} payload has {} bytes when decompressed, not the {} that it says",
                compression_name(kind), decoded->written, size);
  }
  if (rest == Rest::refused && decoded->read != bytes.size()) {
    return fail("{} bytes follow the {} payload", bytes.size() - decoded->read,
                compression_name(kind));
  }
  return out;
}

}  // namespace vmm::loader
