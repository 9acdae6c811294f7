// Walks what is not zero of a file, of a disk or of a guest's memory, in chunks of 64 KiB: the unit
// of a sparse digest. `visit(number, bytes) -> Result<void>` is called in ascending order; the last
// chunk may be shorter. `progress` advances by all that is read, zeroes too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "src/base/progress.h"
#include "src/base/sparse_file.h"
#include "src/base/unique_fd.h"
#include "src/base/zero.h"
#include "src/disk/qcow2/chain.h"
#include "src/hypervisor/memory/guest_memory.h"
#include "src/hypervisor/snapshot/memory_layer.h"

namespace vmm::snapshot {

inline constexpr std::uint64_t kChunk = 64u << 10;

template <typename Visit>
Result<void> for_each_chunk(int fd, std::uint64_t size, Visit visit,
                            Progress& progress = Progress::none()) {
  std::vector<std::byte> buffer(kChunk);
  DataRange known;
  for (std::uint64_t at = 0; at < size;) {
    if (at >= known.end()) known = TRY(next_data(fd, at, size));
    if (known.length == 0) break;  // only a hole is left
    at = std::max(at, known.offset / kChunk * kChunk);
    const auto chunk = std::span(buffer).first(std::min(kChunk, size - at));
    TRY(read_exact_at(fd, chunk, at));
    if (!is_zero(chunk)) TRY(visit(at / kChunk, std::span<const std::byte>(chunk)));
    at += chunk.size();
    TRY(progress.advance(chunk.size()));
  }
  return {};
}

// Of a disk's file and those behind it.
template <typename Visit>
Result<void> for_each_chunk(disk::qcow2::Chain& chain, Visit visit,
                            Progress& progress = Progress::none()) {
  using disk::qcow2::Extent;
  std::vector<std::byte> buffer(kChunk);
  const auto failed = [&](int error, std::uint64_t at) {
    return fail_errno_text(error, fmt::format("cannot read disk '{}' at {}", chain.name(), at));
  };
  std::uint64_t known = 0;  // before it, a raw layer has no hole at `at`
  for (std::uint64_t at = 0; at < chain.size();) {
    const auto location = chain.locate(at, chain.size() - at);
    if (!location) return failed(location.error(), at);
    const auto& extent = location->extent;
    std::uint64_t zeroes = extent.kind == Extent::Kind::zero ? extent.length : 0;
    if (at >= known && extent.kind == Extent::Kind::data && chain.is_raw_layer(location->layer)) {
      const auto data = TRY(
          next_data(chain.file(location->layer).fd(), extent.host, extent.host + extent.length));
      zeroes = data.offset - extent.host;
      known = at + zeroes + data.length;
    }
    // To where a chunk begins: what is before it in that chunk may be something else.
    if (at + zeroes == chain.size()) break;
    if (const std::uint64_t next = (at + zeroes) / kChunk * kChunk; next > at) {
      at = next;
      continue;
    }
    const auto chunk = std::span(buffer).first(std::min(kChunk, chain.size() - at));
    if (const int error = chain.read(at, chunk); error != 0) return failed(error, at);
    if (!is_zero(chunk)) TRY(visit(at / kChunk, std::span<const std::byte>(chunk)));
    at += chunk.size();
    TRY(progress.advance(chunk.size()));
  }
  return {};
}

// `extents` of the flat memory, ascending: outside of them all is zero.
template <typename Visit>
Result<void> for_each_chunk(const GuestMemory& memory, std::span<const Extent> extents, Visit visit,
                            Progress& progress = Progress::none()) {
  const std::uint64_t size = memory.size();
  std::vector<std::byte> buffer(kChunk);
  std::uint64_t next = 0;  // the first chunk that was not visited
  for (const auto& extent : extents) {
    const std::uint64_t end = (extent.offset + extent.length + kChunk - 1) / kChunk;
    for (next = std::max(next, extent.offset / kChunk); next < end; ++next) {
      const std::uint64_t at = next * kChunk;
      const auto chunk = std::span(buffer).first(std::min(kChunk, size - at));
      for (const auto& region : memory.regions()) {
        const auto piece = region.piece(at, chunk.size());
        if (piece.bytes.empty()) continue;
        std::memcpy(chunk.data() + (piece.offset - at), piece.bytes.data(), piece.bytes.size());
      }
      if (!is_zero(chunk)) TRY(visit(next, std::span<const std::byte>(chunk)));
      TRY(progress.advance(chunk.size()));
    }
  }
  return {};
}

}  // namespace vmm::snapshot
