// The packets of virtio-vsock (virtio 1.2, 5.10.6), little endian.
#pragma once

#include <cstdint>

namespace vmm::virtio::vsock {

inline constexpr std::uint64_t kHostCid = 2;

enum class Operation : std::uint16_t {
  request = 1,
  response = 2,
  reset = 3,
  shutdown = 4,
  data = 5,  // VIRTIO_VSOCK_OP_RW
  credit_update = 6,
  credit_request = 7,
};

inline constexpr std::uint16_t kTypeStream = 1;
// Flags of a shutdown: its sender will not ...
inline constexpr std::uint32_t kShutdownReceive = 1;
inline constexpr std::uint32_t kShutdownSend = 2;
inline constexpr std::uint32_t kShutdownBoth = kShutdownReceive | kShutdownSend;
// Events of the third queue.
inline constexpr std::uint32_t kEventTransportReset = 0;

// The most payload of one packet; what Linux's driver keeps to as well.
inline constexpr std::uint32_t kMaxPayload = 64u << 10;

struct [[gnu::packed]] PacketHeader {
  std::uint64_t source_cid = 0;
  std::uint64_t target_cid = 0;
  std::uint32_t source_port = 0;
  std::uint32_t target_port = 0;
  std::uint32_t length = 0;  // of the payload behind it
  std::uint16_t type = kTypeStream;
  Operation operation = Operation::reset;
  std::uint32_t flags = 0;
  // Credit (5.10.6.3): the sender's buffer, and how many bytes it took out of it so far.
  std::uint32_t buffer_size = 0;
  std::uint32_t forwarded = 0;
};
static_assert(sizeof(PacketHeader) == 44);

}  // namespace vmm::virtio::vsock
