// How it works: sockets, kicks and the listener are watched by one loop. Each event notes what may
// go on (ready_, tx_kicked_, rx_starved_) and calls run(), which moves packets both ways in bounded
// batches until nothing more is to do. Connections with packets for the guest take turns.
#include "devices/virtio/vsock/vsock_device.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>

#include "devices/virtio/vsock/state.h"
#include "src/base/log.h"
#include "src/base/text.h"
#include "src/base/unix_socket.h"

namespace vmm::virtio {

using vsock::Connection;
using vsock::ConnectionKey;
using vsock::Operation;
using vsock::PacketHeader;

namespace {

enum : std::size_t { kReceive, kTransmit, kEvent, kQueues };
constexpr std::uint16_t kRingSize = 256;
constexpr std::uint16_t kEventRingSize = 16;
constexpr std::size_t kBatch = 64;
constexpr int kRounds = 16;
// Beyond it the guest's packets wait, as each may ask for another reply.
constexpr std::size_t kMostReplies = kRingSize;
// Of all connections together, for hosts that do not read.
constexpr std::size_t kMostWaiting = 64u << 20;
// Of the host's ends of connections that it makes.
constexpr std::uint32_t kFirstHostPort = 1u << 30, kLastHostPort = UINT32_MAX - 1;

std::uint64_t key_of(ConnectionKey key) {
  return std::uint64_t{key.guest_port} << 32 | key.host_port;
}

void count(std::atomic<std::uint64_t>& counter, std::uint64_t by = 1) {
  counter.fetch_add(by, std::memory_order_relaxed);
}

// Does not wait: a listener whose backlog is full refuses.
UniqueFd connect_now(const std::string& path) {
  const auto address = UnixAddress::of(path);
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!address || !fd || ::connect(fd.get(), address->get(), address->size()) < 0) {
    return UniqueFd();
  }
  return fd;
}

// The part of `buffers` behind the first `skip` bytes.
std::vector<iovec>& tail_of(std::span<const iovec> buffers, std::size_t skip,
                            std::vector<iovec>& tail) {
  tail.clear();
  for (const auto& buffer : buffers) {
    const std::size_t cut = std::min(skip, buffer.iov_len);
    skip -= cut;
    if (cut < buffer.iov_len) {
      tail.push_back({static_cast<std::byte*>(buffer.iov_base) + cut, buffer.iov_len - cut});
    }
  }
  return tail;
}

// The first `size` bytes of `buffers`, cut in place.
std::span<iovec> head_of(std::span<iovec> buffers, std::size_t size) {
  std::size_t taken = 0;
  while (taken < buffers.size() && size != 0) {
    buffers[taken].iov_len = std::min(buffers[taken].iov_len, size);
    size -= buffers[taken].iov_len;
    ++taken;
  }
  return buffers.first(taken);
}

}  // namespace

Result<std::unique_ptr<VsockDevice>> VsockDevice::create(const VsockConfig& config,
                                                         EventLoop& loop) {
  auto listener = TRY(listen(config));
  return std::unique_ptr<VsockDevice>(new VsockDevice(config, std::move(listener), loop));
}

Result<std::optional<UnixListener>> VsockDevice::listen(const VsockConfig& config) {
  std::optional<UnixListener> listener;
  if (!config.path.empty()) listener.emplace(TRY(UnixListener::create(config.path)));
  return listener;
}

VsockDevice::VsockDevice(const VsockConfig& config, std::optional<UnixListener> listener,
                         EventLoop& loop)
    : cid_(config.cid), path_(config.path), loop_(loop), listener_(std::move(listener)) {
  std::random_device random;
  next_host_port_ = std::uniform_int_distribution(kFirstHostPort, kLastHostPort)(random);
}

VsockDevice::~VsockDevice() { (void)deactivate(); }

std::uint64_t VsockDevice::features() const {
  return kFeatureEventIdx | kFeatureIndirectDescriptors;
}

std::vector<std::uint16_t> VsockDevice::queue_sizes() const {
  return {kRingSize, kRingSize, kEventRingSize};
}

void VsockDevice::read_config(std::uint64_t offset, std::span<std::byte> target) const {
  const std::uint64_t cid = cid_;
  read_config_bytes(std::as_bytes(std::span(&cid, 1)), offset, target);
}

VsockStatistics VsockDevice::statistics() const {
  const auto get = [](const std::atomic<std::uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  return {.connections = get(counters_.connections),
          .rx_packets = get(counters_.rx_packets),
          .rx_bytes = get(counters_.rx_bytes),
          .tx_packets = get(counters_.tx_packets),
          .tx_bytes = get(counters_.tx_bytes),
          .ended = get(counters_.ended),
          .rx_waiting = get(counters_.rx_waiting)};
}

NamedValues VsockDevice::metrics() {
  const auto s = statistics();
  return {{"connections", s.connections}, {"ended", s.ended},
          {"rx_packets", s.rx_packets},   {"rx_bytes", s.rx_bytes},
          {"tx_packets", s.tx_packets},   {"tx_bytes", s.tx_bytes},
          {"rx_waiting", s.rx_waiting}};
}

NamedValues VsockDevice::status() const {
  std::lock_guard lock(path_mutex_);
  return {{"cid", std::uint64_t{cid_}}, {"path", path_}};
}

// --- Another path, or none ----------------------------------------------------------------------

class VsockDevice::Exchange : public SlotChange {
 public:
  Exchange(VsockDevice& device, std::optional<UnixListener> listener, std::string path)
      : device_(device), listener_(std::move(listener)), path_(std::move(path)) {}

 private:
  Result<void> do_make() override {
    device_.exchange(listener_, path_);
    return {};
  }

  VsockDevice& device_;
  std::optional<UnixListener> listener_;  // the new one, then the old one
  const std::string path_;
};

Result<std::unique_ptr<SlotChange>> VsockDevice::prepare(const VsockConfig& config) {
  return std::make_unique<Exchange>(*this, TRY(listen(config)), config.path);
}

void VsockDevice::exchange(std::optional<UnixListener>& listener, const std::string& path) {
  loop_.call([&] {
    if (listener_) event_due_ = true;
    drop_all();
    acceptor_.reset();
    auto old = std::move(listener_);
    listener_.reset();
    if (listener) listener_.emplace(std::move(*listener));
    listener.reset();
    if (old) listener.emplace(std::move(*old));
    std::lock_guard lock(path_mutex_);
    path_ = path;
  });
}

// --- Life ---------------------------------------------------------------------------------------

Result<void> VsockDevice::activate(Activation activation) {
  Result<void> result;
  loop_.call([&] {
    interrupts_ = activation.interrupts;
    queues_ = std::move(activation.queues);
    queues_.resize(kQueues);
    broken_ = false;
    tx_kicked_ = true;
    rx_starved_ = false;
    life_ = std::make_shared<int>();
    result = watch_queues();
    if (!result) return;
    if (activation.resumed) watch_connections();
    update_listener();
    run();
  });
  if (!result) (void)deactivate();
  return result;
}

Result<void> VsockDevice::watch_queues() {
  const auto watch = [this](std::size_t queue, auto note) -> Result<void> {
    if (!queues_[queue]) return {};
    return watch_kicks(loop_, *queues_[queue]->kick, [this, note] {
      note();
      run();
    });
  };
  TRY(watch(kReceive, [this] { rx_starved_ = false; }));
  TRY(watch(kTransmit, [this] { tx_kicked_ = true; }));
  TRY(watch(kEvent, [] {}));
  return {};
}

// What was watched before suspend() is watched again; an edge comes for all that waits.
void VsockDevice::watch_connections() {
  std::vector<int> waiting;
  for (const auto& [fd, greeting] : greetings_) waiting.push_back(fd);
  for (const int fd : waiting) {
    if (!loop_.watch(fd, EPOLLIN | EPOLLRDHUP, [this, fd](std::uint32_t) { greet(fd); })) {
      greetings_.erase(fd);
    }
  }
  for (auto& [key, entry] : connections_) {
    if (!entry->watched) continue;
    const std::uint32_t writable = entry->writable_watched ? EPOLLOUT : 0u;
    const auto result =
        loop_.watch(entry->connection.fd(), EPOLLIN | EPOLLRDHUP | EPOLLET | writable,
                    [this, key](std::uint32_t events) { socket_event(key, events); });
    if (result) continue;
    entry->watched = false;
    entry->connection.reset();
    if (!std::exchange(entry->queued, true)) ready_.push_back(key);
  }
}

std::vector<std::optional<Queue>> VsockDevice::take_queues() {
  std::vector<std::optional<Queue>> queues;
  for (auto& queue : queues_) {
    queues.emplace_back();
    if (!queue) continue;
    loop_.forget(queue->kick->fd());
    queues.back() = std::move(queue->queue);
  }
  queues_.clear();
  interrupts_ = nullptr;
  return queues;
}

std::vector<std::optional<Queue>> VsockDevice::deactivate() {
  std::vector<std::optional<Queue>> queues;
  loop_.call([&] {
    const bool active = std::exchange(life_, nullptr) != nullptr;
    posted_ = false;
    event_due_ = false;
    told_at_.reset();
    drop_all();  // those of a suspended device, too
    update_listener();
    if (active) queues = take_queues();
  });
  return queues;
}

std::vector<std::optional<Queue>> VsockDevice::suspend() {
  std::vector<std::optional<Queue>> queues;
  loop_.call([&] {
    if (!std::exchange(life_, nullptr)) return;
    posted_ = false;
    update_listener();
    for (const auto& [fd, greeting] : greetings_) loop_.forget(fd);
    for (const auto& [key, entry] : connections_) {
      if (entry->watched) loop_.forget(entry->connection.fd());
    }
    queues = take_queues();
  });
  return queues;
}

void VsockDevice::save(state::Sections& sections, std::string_view name) const {
  sections.put(name, VsockState{cid_});
}

Result<void> VsockDevice::restore(state::Sections& sections, std::string_view name) {
  const auto state = TRY(sections.take<VsockState>(name));
  if (state.cid != cid_) {
    return fail("the guest's vsock address was {}, here it is {}", state.cid, cid_);
  }
  event_due_ = true;
  return {};
}

void VsockDevice::drop_all() {
  while (!greetings_.empty()) end_greeting(greetings_.begin()->first);
  while (!connections_.empty()) remove(connections_.begin()->first);
  ready_.clear();
  replies_.clear();
}

void VsockDevice::transport_reset() {
  loop_.call([this] {
    if (!life_) return;
    drop_all();
    event_due_ = true;
    update_listener();
    run();
  });
}

void VsockDevice::break_device(std::string_view reason) {
  if (!std::exchange(broken_, true)) interrupts_->needs_reset(reason);
}

// --- The host's side ----------------------------------------------------------------------------

void VsockDevice::update_listener() {
  const bool room = connections_.size() + greetings_.size() < kMaxConnections;
  const bool wanted = listener_ && life_ != nullptr && room && !is_resetting();
  if (!wanted) {
    if (acceptor_) acceptor_->stop();
    return;
  }
  if (!acceptor_) {
    acceptor_.emplace(loop_, listener_->fd(),
                      [this](UniqueFd socket) { accept(std::move(socket)); });
  }
  const auto result = acceptor_->start();
  if (!result) log::error_limited(limit_, "vsock: {}", result.error().message());
}

// From when a reset is due until the driver has done what it says. A guest that gives no buffer for
// it keeps its hosts waiting.
bool VsockDevice::is_resetting() const {
  return told_at_ || (event_due_ && queues_.size() == kQueues && queues_[kEvent]);
}

void VsockDevice::accept(UniqueFd socket) {
  const int fd = socket.get();
  greetings_.emplace(fd, vsock::Greeting(std::move(socket)));
  if (!loop_.watch(fd, EPOLLIN | EPOLLRDHUP, [this, fd](std::uint32_t) { greet(fd); })) {
    greetings_.erase(fd);
    return;
  }
  greet(fd);  // the line is often there already
  update_listener();
}

void VsockDevice::end_greeting(int fd) {
  loop_.forget(fd);
  greetings_.erase(fd);
}

void VsockDevice::greet(int fd) {
  const auto it = greetings_.find(fd);
  if (it == greetings_.end()) return;
  const auto state = it->second.read();
  if (state == vsock::Greeting::State::incomplete) return;
  UniqueFd socket = it->second.take_socket();
  const std::uint32_t guest_port = it->second.guest_port();
  loop_.forget(fd);
  greetings_.erase(it);
  if (state == vsock::Greeting::State::complete) {
    if (const auto host_port = free_host_port(guest_port)) {
      (void)open({guest_port, *host_port}, std::move(socket), Connection::Origin::host);
      run();
    }
  }
  update_listener();
}

std::optional<std::uint32_t> VsockDevice::free_host_port(std::uint32_t guest_port) {
  // More tries than there are connections.
  for (std::size_t i = 0; i <= kMaxConnections; ++i) {
    const std::uint32_t port = next_host_port_;
    next_host_port_ = port == kLastHostPort ? kFirstHostPort : port + 1;
    if (!connections_.contains(key_of({guest_port, port}))) return port;
  }
  return std::nullopt;
}

bool VsockDevice::open(ConnectionKey ports, UniqueFd socket, Connection::Origin origin) {
  const Key key = key_of(ports);
  const int fd = socket.get();
  auto entry = std::make_unique<Entry>(Connection(ports, cid_, std::move(socket), origin));
  const auto result = loop_.watch(fd, EPOLLIN | EPOLLRDHUP | EPOLLET,
                                  [this, key](std::uint32_t events) { socket_event(key, events); });
  if (!result) return false;
  entry->watched = true;
  connections_[key] = std::move(entry);
  counters_.connections = connections_.size();
  settle(key);
  return true;
}

void VsockDevice::socket_event(Key key, std::uint32_t events) {
  const auto it = connections_.find(key);
  if (it == connections_.end()) return;
  it->second->connection.socket_event(events);
  settle(key);
  run();
}

// After anything happened to a connection: what is watched, and whether it has packets to send.
void VsockDevice::settle(Key key) {
  auto& entry = *connections_.at(key);
  auto& connection = entry.connection;
  waiting_ += connection.waiting_size() - std::exchange(entry.waiting, connection.waiting_size());
  if (waiting_ > kMostWaiting && entry.waiting != 0) {
    log::warn_limited(limit_, "vsock: nobody reads port {}: its connection is reset",
                      connection.key().host_port);
    connection.reset();
    waiting_ -= std::exchange(entry.waiting, 0);
  }
  if (connection.dead() && std::exchange(entry.watched, false)) {
    loop_.forget(connection.fd());
    connection.close();
    count(counters_.ended);
  }
  if (connection.finished()) return remove(key);
  const bool writable = connection.wants_writable();
  if (entry.watched && writable != std::exchange(entry.writable_watched, writable)) {
    const std::uint32_t events = EPOLLIN | EPOLLRDHUP | EPOLLET;
    // Fails for descriptors that are not watched only.
    (void)loop_.modify(connection.fd(), writable ? events | EPOLLOUT : events);
  }
  if (!entry.queued && connection.has_packets()) {
    entry.queued = true;
    ready_.push_back(key);
  }
}

void VsockDevice::remove(Key key) {
  const auto it = connections_.find(key);
  if (it->second->watched) loop_.forget(it->second->connection.fd());
  waiting_ -= it->second->waiting;
  if (it->second->queued) std::erase(ready_, key);
  connections_.erase(it);
  counters_.connections = connections_.size();
  update_listener();
}

// --- The guest's side ---------------------------------------------------------------------------

void VsockDevice::run() {
  look_for_answer();
  serve();
  counters_.rx_waiting.store(ready_.size() + replies_.size(), std::memory_order_relaxed);
}

// The driver gives an event's buffer back when it has done what it says.
void VsockDevice::look_for_answer() {
  if (!told_at_ || !life_ || broken_ || !queues_[kEvent]) return;
  if (queues_[kEvent]->queue.avail_index() == *told_at_) return;
  told_at_.reset();
  update_listener();
}

void VsockDevice::serve() {
  for (int round = 0; round < kRounds; ++round) {
    if (!life_ || broken_) return;
    bool more = serve_transmit();
    const bool held_up = replies_.size() >= kMostReplies;
    more = serve_receive() || more;
    if (!more && !(held_up && replies_.size() < kMostReplies)) {
      if (event_due_ && !broken_) send_event();
      return;
    }
  }
  if (std::exchange(posted_, true)) return;
  loop_.post([this, alive = std::weak_ptr(life_)] {
    if (alive.expired()) return;
    posted_ = false;
    run();
  });
}

bool VsockDevice::serve_transmit() {
  if (!tx_kicked_ || broken_ || !queues_[kTransmit]) return false;
  auto& queue = queues_[kTransmit]->queue;
  // The guest takes its replies first.
  const auto turn = serve_turn(
      queue, kBatch, [this] { return replies_.size() < kMostReplies; },
      [this](const Chain& chain) {
        if (!chain.writable().empty() || chain.readable_size() < sizeof(PacketHeader)) {
          return Handled::refused("a transmit chain that is no vsock packet");
        }
        take_packet(chain);
        return Handled::used(0);
      },
      [this](std::string_view reason) { break_device(reason); });
  if (turn == Turn::broken) return false;
  if (turn == Turn::empty) tx_kicked_ = false;
  if (queue.take_notification()) interrupts_->queue_used(kTransmit);
  return turn == Turn::spent;
}

void VsockDevice::take_packet(const Chain& chain) {
  const auto header = *read_struct<PacketHeader>(chain.readable());
  count(counters_.tx_packets);
  // Packets of others, or longer than they are, are dropped (5.10.6.2).
  if (header.source_cid != cid_ || header.length > chain.readable_size() - sizeof header) {
    return;
  }
  if (header.target_cid != vsock::kHostCid || header.type != vsock::kTypeStream) {
    return reply_reset(header);
  }
  const Key key = key_of({header.source_port, header.target_port});
  const auto it = connections_.find(key);
  if (it == connections_.end()) {
    if (header.operation == Operation::request) return take_request(header);
    return reply_reset(header);
  }
  auto payload = std::span(tail_of(chain.readable(), sizeof header, tail_));
  if (header.operation == Operation::data) {
    count(counters_.tx_bytes, header.length);
    payload = head_of(payload, header.length);
  }
  it->second->connection.take(header, payload);
  settle(key);
}

void VsockDevice::take_request(const PacketHeader& header) {
  const ConnectionKey ports{header.source_port, header.target_port};
  if (path_.empty()) return reply_reset(header);
  if (connections_.size() + greetings_.size() >= kMaxConnections) return reply_reset(header);
  auto socket = connect_now(fmt::format("{}_{}", path_, ports.host_port));
  if (!socket || !open(ports, std::move(socket), Connection::Origin::guest)) {
    return reply_reset(header);
  }
  connections_.at(key_of(ports))->connection.take_credit(header);
}

void VsockDevice::reply_reset(const PacketHeader& to) {
  // Two sides that do not know of a connection must not answer each other for ever.
  if (to.operation == Operation::reset) return;
  replies_.push_back({.source_cid = to.target_cid,
                      .target_cid = to.source_cid,
                      .source_port = to.target_port,
                      .target_port = to.source_port,
                      .type = to.type,
                      .operation = Operation::reset});
}

bool VsockDevice::serve_receive() {
  if (rx_starved_ || broken_ || !queues_[kReceive]) return false;
  auto& queue = queues_[kReceive]->queue;
  const auto turn = serve_turn(
      queue, kBatch, [this] { return !replies_.empty() || !ready_.empty(); },
      [this](const Chain& chain) { return give_packet(chain); },
      [this](std::string_view reason) { break_device(reason); });
  if (turn == Turn::broken) return false;
  rx_starved_ = turn == Turn::empty;
  if (queue.take_notification()) interrupts_->queue_used(kReceive);
  return turn == Turn::spent;
}

Handled VsockDevice::give_packet(const Chain& chain) {
  // Room for a header alone would never let data through.
  if (!chain.readable().empty() || chain.writable_size() <= sizeof(PacketHeader)) {
    return Handled::refused("a receive chain that holds no vsock packet");
  }
  const auto packet = next_packet(tail_of(chain.writable(), sizeof(PacketHeader), tail_));
  if (!packet) return Handled::not_yet();
  (void)copy_to_buffers(chain.writable(), 0, std::as_bytes(std::span(&*packet, 1)));
  // Before the guest can see the packet: whoever answers it may read the counters.
  count(counters_.rx_packets);
  count(counters_.rx_bytes, packet->length);
  return Handled::used(sizeof *packet + packet->length);
}

// The next packet for the guest, its payload in `room`; connections take turns.
std::optional<PacketHeader> VsockDevice::next_packet(std::span<const iovec> room) {
  if (!replies_.empty()) {
    const auto reply = replies_.front();
    replies_.pop_front();
    // Replies were what the guest's packets waited for.
    return reply;
  }
  while (!ready_.empty()) {
    const Key key = ready_.front();
    ready_.pop_front();
    auto& entry = *connections_.at(key);
    entry.queued = false;
    const auto packet = entry.connection.make(room);
    settle(key);
    if (packet) return packet;
  }
  return std::nullopt;
}

void VsockDevice::send_event() {
  if (!queues_[kEvent]) return;
  auto& queue = queues_[kEvent]->queue;
  const auto turn = serve_turn(
      queue, 1, [] { return true; },
      [&](const Chain& chain) {
        const std::uint32_t event = vsock::kEventTransportReset;
        if (!chain.readable().empty() || chain.writable_size() < sizeof event) {
          return Handled::refused("an event chain that holds no event");
        }
        (void)copy_to_buffers(chain.writable(), 0, std::as_bytes(std::span(&event, 1)));
        told_at_ = queue.ask_for_more();
        event_due_ = false;
        return Handled::used(sizeof event);
      },
      [this](std::string_view reason) { break_device(reason); });
  if (turn != Turn::broken && queue.take_notification()) interrupts_->queue_used(kEvent);
}

}  // namespace vmm::virtio
