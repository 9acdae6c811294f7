// The operations of a chain that change its image. Each works on pieces within one L2 table, so
// that what it holds in memory is bounded.
#include <algorithm>
#include <cstring>

#include "src/disk/buffers.h"
#include "src/disk/qcow2/chain.h"

namespace vmm::disk::qcow2 {
namespace {

constexpr std::uint64_t kMaxPiece = 4u << 20;

// How far a piece that begins at `offset` goes.
std::uint64_t piece_length(const Header& header, std::uint64_t offset, std::uint64_t length,
                           std::uint64_t most) {
  const std::uint64_t left = header.l2_span() - (offset & (header.l2_span() - 1));
  // The end of a long piece lies between clusters, so that none is allocated for half of it.
  const std::uint64_t end =
      round_up(offset + 1, header.cluster_size()) +
      round_down(std::max(most, header.cluster_size()) - 1, header.cluster_size());
  return std::min({length, left, end - offset});
}

}  // namespace

int Chain::write(const Request& request) {
  if (request.offset > size_ || request.length > size_ - request.offset) return EINVAL;
  const Header& header = top().header();
  std::vector<iovec> left(request.buffers.begin(), request.buffers.end());
  std::uint64_t offset = request.offset;
  for (std::uint64_t remaining = request.length; remaining > 0;) {
    const std::uint64_t length = piece_length(header, offset, remaining, kMaxPiece);
    if (const int error = top().flush_when_due(); error != 0) return error;
    if (const int error = write_piece(offset, length, take_bytes(left, length)); error != 0) {
      return error;
    }
    left = skip_bytes(left, length);
    offset += length;
    remaining -= length;
  }
  return request.durable ? flush() : 0;
}

int Chain::write_piece(std::uint64_t offset, std::uint64_t length, std::span<const iovec> buffers) {
  const Header& header = top().header();
  const RangeLocks::Guard guard(locks_, offset >> header.cluster_bits,
                                (offset + length - 1) >> header.cluster_bits);
  std::vector<iovec> left(buffers.begin(), buffers.end());
  const auto token = top().enter();
  int error = 0;
  while (length > 0 && error == 0) {
    const auto extent = top().map(offset, length);
    if (!extent) {
      error = extent.error();
      break;
    }
    std::uint64_t done = extent->length;
    if (extent->writable) {
      const auto piece = take_bytes(left, done);
      Request request;
      request.operation = Operation::write;
      request.offset = extent->host;
      request.length = done;
      request.buffers = piece;
      error = top().storage().file().perform(request);
    } else if (const auto written = write_new(offset, length, left)) {
      done = *written;
    } else {
      error = written.error();
    }
    left = skip_bytes(left, done);
    offset += done;
    length -= done;
  }
  top().leave(token);
  return error;
}

// How many bytes from `offset` on lie in clusters that cannot be written where they are.
std::expected<std::uint64_t, int> Chain::writable_from(std::uint64_t offset, std::uint64_t length) {
  std::uint64_t done = 0;
  while (done < length) {
    const auto extent = top().map(offset + done, length - done);
    if (!extent) return std::unexpected(extent.error());
    if (extent->writable) break;
    done += extent->length;
  }
  return done;
}

// Into new clusters, as many as lie together. First all of their bytes, then the entries.
std::expected<std::uint64_t, int> Chain::write_new(std::uint64_t offset, std::uint64_t length,
                                                   std::span<const iovec> buffers) {
  Image& image = top();
  const std::uint64_t cluster_size = image.header().cluster_size();
  const auto unwritable = writable_from(offset, length);
  if (!unwritable) return unwritable;
  const std::uint64_t begin = round_down(offset, cluster_size);
  const std::uint64_t wanted =
      (round_up(offset + *unwritable, cluster_size) - begin) / cluster_size;
  const auto run = image.allocate(wanted);
  if (!run) return std::unexpected(run.error());
  const std::uint64_t end = std::min(offset + *unwritable, begin + run->count * cluster_size);
  const std::uint64_t run_end = begin + run->count * cluster_size;

  // What the first and the last cluster keep, unless it is zero as a fresh cluster is.
  std::vector<std::byte> head(offset - begin), tail(run_end - end);
  int error = fill_around(begin, run->fresh, head);
  if (error == 0) error = fill_around(end, run->fresh, tail);
  std::vector<iovec> vectors;
  if (!head.empty()) vectors.push_back({head.data(), head.size()});
  for (const auto& buffer : take_bytes(buffers, end - offset)) vectors.push_back(buffer);
  if (!tail.empty()) vectors.push_back({tail.data(), tail.size()});
  Request request;
  request.operation = Operation::write;
  request.offset = (run->first * cluster_size) + (offset - begin - head.size());
  request.length = head.size() + (end - offset) + tail.size();
  request.buffers = vectors;
  if (error == 0) error = image.storage().file().perform(request);
  if (error == 0) error = image.link(begin / cluster_size, *run);
  copied_.fetch_add(head.size() + tail.size(), std::memory_order_relaxed);
  if (error == 0) return end - offset;
  image.give_back(*run);
  return std::unexpected(error);
}

// Reads what is at `offset`, zeroes behind the disk's end; makes `data` empty when it need not be
// written.
int Chain::fill_around(std::uint64_t offset, bool fresh, std::vector<std::byte>& data) {
  const std::uint64_t length =
      std::min<std::uint64_t>(data.size(), size_ - std::min(offset, size_));
  if (!fresh || !reads_zero(offset, length)) return read(offset, std::span(data).first(length));
  data.clear();
  return 0;
}

bool Chain::reads_zero(std::uint64_t offset, std::uint64_t length) {
  while (length > 0) {
    const auto location = locate(offset, length);
    if (!location || location->extent.kind != Extent::Kind::zero) return false;
    offset += location->extent.length;
    length -= location->extent.length;
  }
  return true;
}

// ---- without data

int Chain::discard(std::uint64_t offset, std::uint64_t length) {
  if (offset > size_ || length > size_ - offset) return EINVAL;
  const Header& header = top().header();
  const std::uint64_t cluster_size = header.cluster_size();
  // Without zero clusters, what is behind would be seen again.
  if (has_backing() && header.version < 3) return 0;
  const std::uint64_t end =
      offset + length == size_ ? round_up(size_, cluster_size) : offset + length;
  std::uint64_t at = round_up(offset, cluster_size);
  const auto leaves = has_backing() ? Image::Leaves::zeroes : Image::Leaves::nothing;
  const std::uint64_t stop = round_down(end, cluster_size);
  while (at < stop) {
    const std::uint64_t left = header.l2_span() - (at & (header.l2_span() - 1));
    const std::uint64_t piece = std::min(stop - at, left);
    if (const int error = top().flush_when_due(); error != 0) return error;
    const RangeLocks::Guard guard(locks_, at / cluster_size, (at + piece) / cluster_size - 1);
    if (const int error = top().unlink(at / cluster_size, piece / cluster_size, leaves);
        error != 0) {
      return error;
    }
    at += piece;
  }
  return 0;
}

int Chain::write_zeroes(const Request& request) {
  if (request.offset > size_ || request.length > size_ - request.offset) return EINVAL;
  const Header& header = top().header();
  const std::uint64_t cluster_size = header.cluster_size();
  std::uint64_t offset = request.offset;
  const std::uint64_t end = offset + request.length;
  while (offset < end) {
    const std::uint64_t within = offset & (cluster_size - 1);
    const std::uint64_t cluster_end = std::min(offset - within + cluster_size, size_);
    int error = top().flush_when_due();
    std::uint64_t piece = std::min(end, cluster_end) - offset;
    if (error != 0) return error;
    if (within != 0 || end < cluster_end) {
      error = zero_piece(offset, piece, request.may_unmap);
    } else {
      const std::uint64_t left = header.l2_span() - (offset & (header.l2_span() - 1));
      const std::uint64_t stop = end == size_ ? round_up(end, cluster_size) : end;
      const std::uint64_t count = std::min(stop - offset, left) / cluster_size;
      piece = std::min(count * cluster_size, end - offset);
      error = zero_clusters(offset / cluster_size, count, request.may_unmap);
    }
    if (error != 0) return error;
    offset += piece;
  }
  return 0;
}

// Less than a cluster.
int Chain::zero_piece(std::uint64_t offset, std::uint64_t length, bool may_unmap) {
  if (may_unmap && reads_zero(offset, length)) return 0;
  return write_flat_zeroes(offset, length);
}

int Chain::zero_clusters(std::uint64_t first, std::uint64_t count, bool may_unmap) {
  const Header& header = top().header();
  const std::uint64_t offset = first << header.cluster_bits;
  const std::uint64_t end = std::min((first + count) << header.cluster_bits, size_);
  if (header.version < 3 && has_backing()) return write_flat_zeroes(offset, end - offset);
  const RangeLocks::Guard guard(locks_, first, first + count - 1);
  const auto token = top().enter();
  int error = 0;
  for (std::uint64_t at = offset; at < end && error == 0;) {
    const auto extent = top().map(at, end - at);
    if (!extent) {
      error = extent.error();
      break;
    }
    if (extent->writable && !may_unmap) {
      // Allocated, and to stay so.
      Request request;
      request.operation = Operation::write_zeroes;
      request.offset = extent->host;
      request.length = extent->length;
      error = top().storage().file().perform(request);
    } else {
      const auto leaves = has_backing() ? Image::Leaves::zeroes : Image::Leaves::nothing;
      const std::uint64_t begin = at >> header.cluster_bits;
      const std::uint64_t last = (at + extent->length - 1) >> header.cluster_bits;
      error = top().unlink(begin, last - begin + 1, leaves);
    }
    at += extent->length;
  }
  top().leave(token);
  return error;
}

int Chain::write_flat_zeroes(std::uint64_t offset, std::uint64_t length) {
  const std::vector<std::byte> zeroes(std::min<std::uint64_t>(length, 1u << 20));
  while (length > 0) {
    const std::uint64_t piece = std::min<std::uint64_t>(length, zeroes.size());
    const iovec buffer{const_cast<std::byte*>(zeroes.data()), piece};
    Request request;
    request.operation = Operation::write;
    request.offset = offset;
    request.length = piece;
    request.buffers = {&buffer, 1};
    if (const int error = write(request); error != 0) return error;
    offset += piece;
    length -= piece;
  }
  return 0;
}

}  // namespace vmm::disk::qcow2
