#include "src/disk/qcow2/compression.h"

#include <zlib.h>
#include <zstd.h>

#include <memory>

namespace vmm::disk::qcow2 {
namespace {

constexpr int kWindowBits = -12;  // raw deflate with a window of 4 KiB, as QEMU writes it
constexpr int kZstdLevel = 3;

Bytef* bytes(const std::byte* data) {
  return reinterpret_cast<Bytef*>(const_cast<std::byte*>(data));
}

int inflate_cluster(std::span<const std::byte> compressed, std::span<std::byte> cluster) {
  z_stream stream{};
  if (inflateInit2(&stream, kWindowBits) != Z_OK) return ENOMEM;
  stream.next_in = bytes(compressed.data());
  stream.avail_in = static_cast<uInt>(compressed.size());
  stream.next_out = bytes(cluster.data());
  stream.avail_out = static_cast<uInt>(cluster.size());
  const int result = inflate(&stream, Z_FINISH);
  // Z_BUF_ERROR: the cluster is full, and what ends the stream was not read.
  const bool fine = (result == Z_STREAM_END || result == Z_BUF_ERROR) && stream.avail_out == 0;
  (void)inflateEnd(&stream);  // nothing is left that could fail
  return fine ? 0 : EIO;
}

int unzstd_cluster(std::span<const std::byte> compressed, std::span<std::byte> cluster) {
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(),
                                                                     &ZSTD_freeDCtx);
  if (!context) return ENOMEM;
  ZSTD_inBuffer in{compressed.data(), compressed.size(), 0};
  ZSTD_outBuffer out{cluster.data(), cluster.size(), 0};
  while (out.pos < out.size) {
    const std::size_t before = in.pos + out.pos;
    const std::size_t result = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(result) != 0 || in.pos + out.pos == before) return EIO;
  }
  return 0;
}

std::vector<std::byte> deflate_cluster(std::span<const std::byte> cluster) {
  std::vector<std::byte> result(cluster.size());
  z_stream stream{};
  if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kWindowBits, 9,
                   Z_DEFAULT_STRATEGY) != Z_OK) {
    return {};
  }
  stream.next_in = bytes(cluster.data());
  stream.avail_in = static_cast<uInt>(cluster.size());
  stream.next_out = bytes(result.data());
  stream.avail_out = static_cast<uInt>(result.size() - 1);
  const bool fits = deflate(&stream, Z_FINISH) == Z_STREAM_END;
  result.resize(fits ? stream.total_out : 0);
  (void)deflateEnd(&stream);  // says only that it was not at its end
  return result;
}

std::vector<std::byte> zstd_cluster(std::span<const std::byte> cluster) {
  std::vector<std::byte> result(ZSTD_compressBound(cluster.size()));
  const std::size_t size =
      ZSTD_compress(result.data(), result.size(), cluster.data(), cluster.size(), kZstdLevel);
  result.resize(ZSTD_isError(size) != 0 || size >= cluster.size() ? 0 : size);
  return result;
}

}  // namespace

int decompress(Compression kind, std::span<const std::byte> compressed,
               std::span<std::byte> cluster) {
  return kind == Compression::zlib ? inflate_cluster(compressed, cluster)
                                   : unzstd_cluster(compressed, cluster);
}

std::vector<std::byte> compress(Compression kind, std::span<const std::byte> cluster) {
  return kind == Compression::zlib ? deflate_cluster(cluster) : zstd_cluster(cluster);
}

}  // namespace vmm::disk::qcow2
