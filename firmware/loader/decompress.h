// The compressions of kernels, on the host.
//
//   const auto kind = detect_compression(payload);
//   if (is_supported(kind)) auto bytes = TRY(decompress(kind, payload, uncompressed_size));
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "src/base/mapping.h"
#include "src/base/result.h"

namespace vmm::loader {

enum class Compression : std::uint8_t { gzip, xz, lz4, zstd, bzip2, lzma, lzo, unknown };

// By the magic at the start.
Compression detect_compression(std::span<const std::byte> bytes);
std::string_view compression_name(Compression kind);
bool is_supported(Compression kind);

// How many bytes `stream`, one whole stream of gzip or zstd, has when decompressed, `limit` at
// most. gzip says it at its end; a zstd frame that does not say it is measured by decompressing it.
Result<std::uint64_t> uncompressed_size(Compression kind, std::span<const std::byte> stream,
                                        std::uint64_t limit);

// What follows a stream: not looked at, or an error.
enum class Rest : std::uint8_t { ignored, refused };

// The first stream in `bytes`, which must come out at exactly `size` bytes. Never writes more than
// `size`. The memory is touched as it is filled.
Result<Mapping> decompress(Compression kind, std::span<const std::byte> bytes, std::uint64_t size,
                           Rest rest = Rest::ignored);

}  // namespace vmm::loader
