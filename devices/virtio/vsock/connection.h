// Connection: one stream between a port of the guest and a Unix socket of the host.
//
//                 host connects                 guest connects
//                      |                             |
//                  requested --guest's response--> open
//                                                    |  each side shuts down what it will not do
//                                                  closed: both did, or either one reset it
//
// Data to the guest is read from the socket right into the guest's buffers, as far as the guest's
// credit goes: what waits, waits in the socket. Data to the host is written right out of the
// guest's buffers; only what the socket does not take is kept, and the credit that the guest has
// bounds it.
//
// It knows nothing of queues: the device hands packets in (take), and asks for those to send
// (make). One thread.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "devices/virtio/vsock/packet.h"
#include "src/base/unique_fd.h"

namespace vmm::virtio::vsock {

struct ConnectionKey {
  std::uint32_t guest_port = 0;
  std::uint32_t host_port = 0;
  friend bool operator==(const ConnectionKey&, const ConnectionKey&) = default;
};

class Connection {
 public:
  // What a guest may send before the host's side took it.
  static constexpr std::uint32_t kBufferSize = 256u << 10;

  enum class Origin : std::uint8_t { host, guest };

  // `socket` is non-blocking and connected.
  Connection(ConnectionKey key, std::uint64_t guest_cid, UniqueFd socket, Origin origin);

  const ConnectionKey& key() const { return key_; }
  int fd() const { return socket_.get(); }

  // A packet of the guest for this connection, with its payload.
  void take(const PacketHeader& header, std::span<const iovec> payload);
  // What the header of any packet says of the guest's buffer.
  void take_credit(const PacketHeader& header);
  // The socket may be read, may be written, or its other end is gone: epoll's events, as hints.
  void socket_event(std::uint32_t events);

  // Whether make() may have something.
  bool has_packets() const;
  // The next packet for the guest, its payload written to `room`.
  std::optional<PacketHeader> make(std::span<const iovec> room);

  // Its socket is of no use any more: stop to watch it, and close it.
  bool dead() const { return reset_due_ || finished_; }
  void close() { socket_.reset(); }
  // The connection is over, and the guest knows.
  bool finished() const { return finished_; }
  // Bytes wait for the socket to be writable.
  bool wants_writable() const { return waiting_size() != 0 && !dead(); }
  std::size_t waiting_size() const { return waiting_.size() - waiting_done_; }
  // Ends it at once: a reset is the only packet left.
  void reset();

 private:
  enum class State : std::uint8_t { requested, open };

  void take_response();
  void take_data(std::uint32_t length, std::span<const iovec> payload);
  void take_shutdown(std::uint32_t flags);
  void write_out(std::span<const iovec> payload);
  void flush();
  void after_flush();
  void forward(std::size_t bytes);
  bool socket_closed() const;
  std::uint32_t credit() const;
  bool can_read() const;
  std::optional<std::uint32_t> read_payload(std::span<const iovec> room);
  PacketHeader header(Operation operation);

  const ConnectionKey key_;
  const std::uint64_t guest_cid_;
  UniqueFd socket_;
  State state_;
  bool finished_ = false;

  // Packets to send.
  bool request_due_ = false;
  bool response_due_ = false;
  bool reset_due_ = false;
  bool credit_update_due_ = false;
  bool credit_request_due_ = false;
  std::uint32_t shutdown_due_ = 0;

  // Guest to host.
  std::vector<std::byte> waiting_;  // from waiting_done_ on: taken, but not by the socket yet
  std::size_t waiting_done_ = 0;
  std::uint32_t received_ = 0;        // bytes, modulo 2^32 as all counts here
  std::uint32_t forwarded_ = 0;       // of those, out of our hands
  std::uint32_t forwarded_told_ = 0;  // as the guest knows it
  bool guest_sends_ = true;
  bool guest_receives_ = true;

  // Host to guest.
  bool readable_ = true;
  bool ending_ = false;  // the end is to be read as well
  bool host_sends_ = true;
  std::uint32_t shutdown_told_ = 0;
  std::uint32_t sent_ = 0;
  std::uint32_t guest_buffer_ = 0;
  std::uint32_t guest_forwarded_ = 0;
  bool credit_asked_ = false;
};

}  // namespace vmm::virtio::vsock
