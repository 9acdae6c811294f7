// Compressed clusters: one cluster in one piece, by zlib's raw deflate or by zstd.
#pragma once

#include <span>
#include <vector>

#include "src/disk/qcow2/header.h"

namespace vmm::disk::qcow2 {

// Fills `cluster`. `compressed` may have more behind its end. 0, or EIO: it is damaged.
int decompress(Compression kind, std::span<const std::byte> compressed,
               std::span<std::byte> cluster);

// Empty when it does not become smaller.
std::vector<std::byte> compress(Compression kind, std::span<const std::byte> cluster);

}  // namespace vmm::disk::qcow2
