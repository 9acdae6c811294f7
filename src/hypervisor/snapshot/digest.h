// SHA-256 (FIPS 180-4) of what a snapshot consists of, as 64 hex digits.
#pragma once

#include <nettle/sha2.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "src/base/progress.h"
#include "src/base/result.h"

namespace vmm::snapshot {

class Sha256 {
 public:
  using Bytes = std::array<std::byte, SHA256_DIGEST_SIZE>;
  Sha256() { sha256_init(&context_); }
  void update(std::span<const std::byte> bytes) {
    sha256_update(&context_, bytes.size(), reinterpret_cast<const std::uint8_t*>(bytes.data()));
  }
  // Once; the object starts anew.
  Bytes finish();

 private:
  sha256_ctx context_{};
};

std::string to_hex(std::span<const std::byte> bytes);

std::string digest_of(std::span<const std::byte> bytes);
std::string digest_of(std::string_view text);

// Of a large, sparse file: the number and the content of each chunk of 64 KiB that is not all
// zero, so that it is the same wherever the holes lie. The chunks come from chunks.h, in order.
class SparseDigest {
 public:
  void add(std::uint64_t number, std::span<const std::byte> chunk);
  std::string finish() { return to_hex(hash_.finish()); }

 private:
  Sha256 hash_;
};

// Of the first `size` bytes of a file. Error: it has another size, or cannot be read.
Result<std::string> digest_of_sparse(int fd, std::uint64_t size,
                                     Progress& progress = Progress::none());
// How many of these are not in holes: by so many does `progress` advance, and by some more where
// data begins or ends within a chunk.
std::uint64_t sparse_size(int fd, std::uint64_t size);

}  // namespace vmm::snapshot
