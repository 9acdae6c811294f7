#include "src/hypervisor/snapshot/digest.h"

#include <sys/stat.h>

#include "src/base/sparse_file.h"
#include "src/hypervisor/snapshot/chunks.h"

namespace vmm::snapshot {

Sha256::Bytes Sha256::finish() {
  Bytes digest{};
  sha256_digest(&context_, digest.size(), reinterpret_cast<std::uint8_t*>(digest.data()));
  return digest;
}

std::string to_hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const auto byte : bytes) text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return text;
}

std::string digest_of(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return to_hex(hash.finish());
}

std::string digest_of(std::string_view text) {
  return digest_of(std::as_bytes(std::span(text.data(), text.size())));
}

void SparseDigest::add(std::uint64_t number, std::span<const std::byte> chunk) {
  hash_.update(std::as_bytes(std::span(&number, 1)));
  hash_.update(chunk);
}

Result<std::string> digest_of_sparse(int fd, std::uint64_t size, Progress& progress) {
  struct stat status{};
  if (::fstat(fd, &status) < 0) return fail_errno("cannot examine the file");
  if (static_cast<std::uint64_t>(status.st_size) != size) {
    return fail("it has {} bytes instead of {}", status.st_size, size);
  }
  SparseDigest digest;
  const auto add = [&](std::uint64_t number, auto chunk) -> Result<void> {
    digest.add(number, chunk);
    return {};
  };
  TRY(for_each_chunk(fd, size, add, progress));
  return digest.finish();
}

std::uint64_t sparse_size(int fd, std::uint64_t size) {
  std::uint64_t total = 0;
  for (std::uint64_t at = 0; at < size;) {
    const auto data = next_data(fd, at, size);
    if (!data) return total + size - at;  // an estimate: who reads it says what is wrong
    total += data->length;
    at = data->end();
  }
  return total;
}

}  // namespace vmm::snapshot
