// VsockDevice: the virtio socket device (virtio 1.2, 5.10), ended in this process: streams between
// ports of the guest and Unix sockets of the host.
//
//   host to guest   connect to PATH, send "CONNECT <port>\n", read "OK <host port>\n", then bytes
//   guest to host   connect to CID 2, port N: whoever listens at PATH_N gets the stream
//
//   auto device = TRY(VsockDevice::create({.cid = 3, .path = "/run/vm/vsock"}, loop));
//
// A host that connects before the guest's driver is up, or has heard of a reset, waits; a port that
// nobody listens at closes the connection.
//
// Threads: everything happens on the loop's; activate(), deactivate(), transport_reset() and the
// destructor may be called from others and wait for it.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "devices/virtio/device.h"
#include "devices/virtio/served_queue.h"
#include "devices/virtio/slot.h"
#include "devices/virtio/vsock/config.h"
#include "devices/virtio/vsock/connection.h"
#include "devices/virtio/vsock/greeting.h"
#include "src/base/acceptor.h"
#include "src/base/event_loop.h"
#include "src/base/log.h"
#include "src/base/unix_socket.h"

namespace vmm::virtio {

struct VsockStatistics {
  std::uint64_t connections = 0;               // open now
  std::uint64_t rx_packets = 0, rx_bytes = 0;  // to the guest
  std::uint64_t tx_packets = 0, tx_bytes = 0;  // from it
  std::uint64_t ended = 0;                     // connections, so far
  // What waits until the guest takes it: connections with packets, and replies.
  std::uint64_t rx_waiting = 0;
};

class VsockDevice : public Device {
 public:
  // Connections at a time, those that did not send their first line included.
  static constexpr std::size_t kMaxConnections = 1024;

  // Listens at the config's path; see UnixListener for its errors. Without a path the guest has the
  // device and reaches nobody: a restored machine that was not told of a path.
  static Result<std::unique_ptr<VsockDevice>> create(const VsockConfig& config, EventLoop& loop);
  ~VsockDevice() override;

  // Another path, or (empty) none; beside the device's work. Connections through the old one end,
  // as by transport_reset().
  Result<std::unique_ptr<SlotChange>> prepare(const VsockConfig& config);

  // Ends all connections and tells the driver so (5.10.6.8): the guest was restored or moved.
  void transport_reset();
  VsockStatistics statistics() const;

  DeviceType type() const override { return DeviceType::vsock; }
  std::uint64_t features() const override;
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> target) const override;
  Result<void> activate(Activation activation) override;
  std::vector<std::optional<Queue>> deactivate() override;
  std::vector<std::optional<Queue>> suspend() override;
  void save(state::Sections& sections, std::string_view name) const override;
  Result<void> restore(state::Sections& sections, std::string_view name) override;
  NamedValues metrics() override;
  NamedValues status() const override;

 private:
  struct Entry {
    explicit Entry(vsock::Connection c) : connection(std::move(c)) {}
    vsock::Connection connection;
    bool watched = false;
    bool writable_watched = false;
    bool queued = false;      // in ready_
    std::size_t waiting = 0;  // its share of waiting_
  };
  // Ports as one number: guest's, host's.
  using Key = std::uint64_t;

  class Exchange;
  static Result<std::optional<UnixListener>> listen(const VsockConfig& config);
  void exchange(std::optional<UnixListener>& listener, const std::string& path);

  VsockDevice(const VsockConfig& config, std::optional<UnixListener> listener, EventLoop& loop);

  // Host side.
  void accept(UniqueFd socket);
  void update_listener();
  bool is_resetting() const;
  void greet(int fd);
  void end_greeting(int fd);
  bool open(vsock::ConnectionKey key, UniqueFd socket, vsock::Connection::Origin origin);
  std::optional<std::uint32_t> free_host_port(std::uint32_t guest_port);
  void socket_event(Key key, std::uint32_t events);
  void settle(Key key);
  void remove(Key key);
  void drop_all();

  // Guest side.
  Result<void> watch_queues();
  void watch_connections();
  std::vector<std::optional<Queue>> take_queues();
  void run();
  void look_for_answer();
  void serve();
  bool serve_transmit();
  bool serve_receive();
  void take_packet(const Chain& chain);
  Handled give_packet(const Chain& chain);
  void take_request(const vsock::PacketHeader& header);
  void reply_reset(const vsock::PacketHeader& to);
  std::optional<vsock::PacketHeader> next_packet(std::span<const iovec> room);
  void send_event();
  void break_device(std::string_view reason);

  const std::uint32_t cid_;
  mutable std::mutex path_mutex_;
  std::string path_;  // written on the loop's thread, with path_mutex_, which others read with
  EventLoop& loop_;
  std::optional<UnixListener> listener_;
  std::optional<Acceptor> acceptor_;  // of the listener, once it was to take connections
  // Begins anywhere: a restored guest may still hold ends of its original's connections, and takes
  // packets with the ports of one of them for that one's.
  std::uint32_t next_host_port_ = 0;
  std::unordered_map<int, vsock::Greeting> greetings_;  // accepted, first line not read
  std::unordered_map<Key, std::unique_ptr<Entry>> connections_;
  std::size_t waiting_ = 0;  // bytes that hosts did not take yet
  log::RateLimit limit_;
  // Connections that may have packets for the guest: those that are `queued`, each once.
  std::deque<Key> ready_;
  std::deque<vsock::PacketHeader>
      replies_;  // resets for what is no connection; kMostReplies at most

  // While active.
  Interrupts* interrupts_ = nullptr;
  std::vector<std::optional<ActiveQueue>> queues_;
  bool broken_ = false;
  bool tx_kicked_ = false;
  bool rx_starved_ = false;
  bool event_due_ = false;
  // Where the event ring ended when a reset was told, until the driver has added to it: it has
  // ended its connections by then, those that came meanwhile too.
  std::optional<std::uint16_t> told_at_;
  // Runs what was posted only while the activation lasts.
  std::shared_ptr<int> life_;
  bool posted_ = false;
  std::vector<iovec> tail_;  // kept to allocate nothing

  struct Counters {
    std::atomic<std::uint64_t> connections{0}, rx_packets{0}, rx_bytes{0}, tx_packets{0},
        tx_bytes{0}, ended{0}, rx_waiting{0};
  };
  Counters counters_;
};

}  // namespace vmm::virtio
