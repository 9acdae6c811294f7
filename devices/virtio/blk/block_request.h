// Takes a chain of the block device apart: header, data, status (virtio 1.2, 5.2.6). The driver may
// cut the bytes into descriptors as it likes.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <expected>
#include <span>
#include <string_view>
#include <vector>

#include "devices/virtio/blk/block_format.h"
#include "devices/virtio/queue.h"

namespace vmm::virtio::blk {

struct BlockRequest {
  RequestHeader header;
  // Between header and status, in host memory.
  std::span<const iovec> readable;
  std::span<const iovec> writable;
  std::uint64_t readable_size = 0;
  std::uint64_t writable_size = 0;
  std::byte* status = nullptr;
};

// Where the spans point to when the chain's own descriptors do not fit. One a request in flight.
struct RequestScratch {
  std::vector<iovec> readable;
  std::vector<iovec> writable;
};

// Or why it cannot even be refused: no room for the header or for the status. The spans point into
// `chain` and `scratch`.
std::expected<BlockRequest, std::string_view> parse_request(const Chain& chain,
                                                            RequestScratch& scratch);

}  // namespace vmm::virtio::blk
