#include "devices/virtio/blk/block_request.h"

#include <algorithm>

namespace vmm::virtio::blk {
namespace {

std::span<const iovec> without_front(std::span<const iovec> buffers, std::size_t count,
                                     std::vector<iovec>& scratch) {
  if (buffers.front().iov_len == count) return buffers.subspan(1);
  scratch.clear();
  for (const auto& buffer : buffers) {
    const std::size_t skipped = std::min(count, buffer.iov_len);
    count -= skipped;
    if (skipped == buffer.iov_len) continue;
    scratch.push_back(
        {static_cast<std::byte*>(buffer.iov_base) + skipped, buffer.iov_len - skipped});
  }
  return scratch;
}

// `buffers` ends with a descriptor that is not empty.
std::span<const iovec> without_last_byte(std::span<const iovec> buffers,
                                         std::vector<iovec>& scratch) {
  if (buffers.back().iov_len == 1) return buffers.first(buffers.size() - 1);
  scratch.assign(buffers.begin(), buffers.end());
  --scratch.back().iov_len;
  return scratch;
}

}  // namespace

std::expected<BlockRequest, std::string_view> parse_request(const Chain& chain,
                                                            RequestScratch& scratch) {
  BlockRequest request;
  const auto header = read_struct<RequestHeader>(chain.readable());
  if (!header) return std::unexpected("a block request that is shorter than its header");
  std::span<const iovec> writable = chain.writable();
  while (!writable.empty() && writable.back().iov_len == 0) {
    writable = writable.first(writable.size() - 1);
  }
  if (writable.empty()) return std::unexpected("a block request without room for its status");
  const iovec& last = writable.back();
  request.header = *header;
  request.status = static_cast<std::byte*>(last.iov_base) + last.iov_len - 1;
  request.readable = without_front(chain.readable(), sizeof(RequestHeader), scratch.readable);
  request.writable = without_last_byte(writable, scratch.writable);
  request.readable_size = chain.readable_size() - sizeof(RequestHeader);
  request.writable_size = chain.writable_size() - 1;
  return request;
}

}  // namespace vmm::virtio::blk
