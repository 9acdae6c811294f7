#include "devices/virtio/net/net_device.h"

#include <algorithm>
#include <cstring>

#include "devices/backend/net/null_backend.h"
#include "devices/backend/net/socket_backend.h"
#include "devices/backend/net/tap.h"
#include "devices/backend/net/user_network.h"
#include "devices/virtio/net/state.h"
#include "src/user_net/virtio_net.h"

namespace vmm::virtio {
namespace {

constexpr std::uint16_t kRingSize = 256;
constexpr std::uint16_t kControlRingSize = 64;
using virtio_net::kGuestOffloads;
using virtio_net::kOffloads;

// virtio 1.2, 5.1.4.
struct ConfigSpace {
  std::array<std::uint8_t, 6> mac;
  std::uint16_t status;
  std::uint16_t max_virtqueue_pairs;
  std::uint16_t mtu;
};
static_assert(sizeof(ConfigSpace) == 12);
constexpr std::uint16_t kLinkUp = 1;

Result<std::unique_ptr<net::NetBackend>> open_backend(const NetConfig& config) {
  switch (config.kind) {
    case NetKind::tap:
      if (!config.tap.empty()) return TRY(net::TapBackend::open(config.tap, config.queues));
      return TRY(net::TapBackend::adopt(config.fds));
    case NetKind::user: {
      auto user = config.user;
      if (config.mtu) user.mtu = *config.mtu;
      return TRY(net::UserNetwork::spawn(user));
    }
    case NetKind::socket:
      return TRY(net::SocketBackend::connect(config.socket));
    case NetKind::none:
      break;
    case NetKind::unplugged:
      return TRY(net::NullBackend::create(config.queues));
  }
  return fail("unknown kind of network");
}

Result<std::unique_ptr<net::VhostNet>> open_vhost(const NetConfig& config) {
  if (config.kind != NetKind::tap || config.vhost == VhostMode::off) return nullptr;
  auto vhost = net::VhostNet::open(config.queues);
  if (vhost) return vhost;
  if (config.vhost == VhostMode::on) return fail("vhost=on: {}", vhost.error().message());
  log::debug("no vhost-net: {}", vhost.error().message());
  return nullptr;
}

}  // namespace

Result<std::unique_ptr<NetDevice>> NetDevice::create(const NetConfig& config, std::string name,
                                                     const GuestMemory& memory) {
  TRY(check(config));
  Parts parts;
  parts.name = std::move(name);
  parts.mac = config.mac ? *config.mac : net::MacAddress::random();
  parts.mtu = config.mtu;
  parts.backend = TRY(open_backend(config));
  parts.vhost = TRY(open_vhost(config));
  parts.link = config.kind != NetKind::unplugged;
  return std::make_unique<NetDevice>(std::move(parts), memory);
}

NetDevice::NetDevice(Parts parts, const GuestMemory& memory)
    : parts_(std::move(parts)),
      memory_(memory),
      current_mac_(parts_.mac),
      link_up_(parts_.link),
      has_vhost_(parts_.vhost != nullptr),
      hides_ecn_(!parts_.link) {
  note_ports();
}

NetDevice::~NetDevice() { (void)deactivate(); }

NetStatistics NetDevice::statistics() const {
  const auto get = [](const std::atomic<std::uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  return {.rx_packets = get(counters_.rx_packets),
          .rx_bytes = get(counters_.rx_bytes),
          .rx_dropped = get(counters_.rx_dropped),
          .tx_packets = get(counters_.tx_packets),
          .tx_bytes = get(counters_.tx_bytes),
          .tx_dropped = get(counters_.tx_dropped),
          .vhost = has_vhost_.load(std::memory_order_relaxed),
          .link_up = link_up_.load(std::memory_order_relaxed)};
}

NamedValues NetDevice::metrics() {
  const auto s = statistics();
  return {{"rx_packets", s.rx_packets}, {"rx_bytes", s.rx_bytes}, {"rx_dropped", s.rx_dropped},
          {"tx_packets", s.tx_packets}, {"tx_bytes", s.tx_bytes}, {"tx_dropped", s.tx_dropped},
          {"vhost", s.vhost},           {"link_up", s.link_up}};
}

NamedValues NetDevice::status() const {
  std::lock_guard lock(ports_mutex_);
  return {{"mac", parts_.mac.text()}, {"ports", ports_}};
}

void NetDevice::note_ports() {
  auto ports = parts_.backend->ports();
  std::lock_guard lock(ports_mutex_);
  ports_ = std::move(ports);
}

std::uint64_t NetDevice::features() const {
  return features_with(*parts_.backend, parts_.vhost.get());
}

std::uint64_t NetDevice::features_with(const net::NetBackend& backend,
                                       const net::VhostNet* vhost) const {
  std::uint64_t ring = kFeatureEventIdx | kFeatureIndirectDescriptors | virtio_net::kMrgRxbuf;
  if (vhost != nullptr) ring &= vhost->features();
  std::uint64_t features = ring | backend.features() | virtio_net::kMac | virtio_net::kStatus |
                           virtio_net::kCtrlVq | virtio_net::kCtrlMacAddr |
                           virtio_net::kCtrlGuestOffloads;
  if (max_pairs() > 1) features |= virtio_net::kMq;
  if (parts_.mtu) features |= virtio_net::kMtu;
  if (hides_ecn_) features &= ~(virtio_net::kHostEcn | virtio_net::kGuestEcn);
  return features;
}

// ---- another network, or none

class NetDevice::Exchange : public SlotChange {
 public:
  Exchange(NetDevice& device, std::unique_ptr<net::NetBackend> backend,
           std::unique_ptr<net::VhostNet> vhost, bool link)
      : device_(device), backend_(std::move(backend)), vhost_(std::move(vhost)), link_(link) {}
  Result<void> check(std::uint64_t features) const override {
    return device_.check_exchange(*backend_, vhost_.get(), features);
  }

 private:
  Result<void> do_make() override { return device_.exchange(backend_, vhost_, link_); }

  NetDevice& device_;
  std::unique_ptr<net::NetBackend> backend_;  // the new one, then the old one
  std::unique_ptr<net::VhostNet> vhost_;
  const bool link_;
};

Result<std::unique_ptr<SlotChange>> NetDevice::prepare(const NetConfig& config) {
  auto backend = TRY(open_backend(config));
  auto vhost = TRY(open_vhost(config));
  TRY(backend->wait_ready());
  if (backend->queue_pairs() != max_pairs()) {
    return fail("{}: the card has {} queue pairs, the network {}", parts_.name, max_pairs(),
                backend->queue_pairs());
  }
  return std::make_unique<Exchange>(*this, std::move(backend), std::move(vhost),
                                    config.kind != NetKind::unplugged);
}

Result<void> NetDevice::check_exchange(const net::NetBackend& backend, const net::VhostNet* vhost,
                                       std::uint64_t features) const {
  const auto missing = features & ~(features_with(backend, vhost) | kFeatureVersion1);
  if (missing == 0) return {};
  if ((missing & ~(virtio_net::kHostEcn | virtio_net::kGuestEcn)) == 0) {
    return fail("{}: its driver uses segments with ECN, which only a tap takes", parts_.name);
  }
  return fail("{}: its driver uses the feature bits {:#x}, which this network does not have",
              parts_.name, missing);
}

// While it is suspended or was never activated. A driver that goes on is served by the new one, or
// the old one stays; else the next activation starts it.
Result<void> NetDevice::exchange(std::unique_ptr<net::NetBackend>& backend,
                                 std::unique_ptr<net::VhostNet>& vhost, bool link) {
  if (backend_started_) {
    auto started = backend->start(offloads());
    if (started && active_pairs_ > 1) started = backend->set_active_pairs(active_pairs_);
    if (!started) return fail("{}: {}", parts_.name, started.error().message());
    if (link_up_) parts_.backend->stop();
  }
  std::swap(parts_.backend, backend);
  std::swap(parts_.vhost, vhost);
  has_vhost_ = parts_.vhost != nullptr;
  if (link_up_.exchange(link) != link) tells_link_ = true;
  note_ports();
  return {};
}

class NetDevice::PortExchange : public SlotChange {
 public:
  PortExchange(NetDevice& device, std::unique_ptr<net::PortChange> change)
      : device_(device), change_(std::move(change)) {}

 private:
  Result<void> do_make() override {
    TRY(change_->make());
    device_.note_ports();
    return {};
  }

  NetDevice& device_;
  const std::unique_ptr<net::PortChange> change_;
};

Result<std::unique_ptr<SlotChange>> NetDevice::prepare_ports(const NetConfig& config) {
  return std::make_unique<PortExchange>(*this,
                                        TRY(parts_.backend->prepare_ports(config.user.forwards)));
}

std::vector<std::uint16_t> NetDevice::queue_sizes() const {
  std::vector<std::uint16_t> sizes(std::size_t{2} * max_pairs(), kRingSize);
  sizes.push_back(kControlRingSize);
  return sizes;
}

void NetDevice::read_config(std::uint64_t offset, std::span<std::byte> target) const {
  ConfigSpace config{};
  {
    std::lock_guard lock(mac_mutex_);
    config.mac = current_mac_.bytes;
  }
  config.status = link_up_.load(std::memory_order_relaxed) ? kLinkUp : 0;
  config.max_virtqueue_pairs = static_cast<std::uint16_t>(max_pairs());
  config.mtu = parts_.mtu.value_or(virtio_net::kDefaultMtu);
  read_config_bytes(std::as_bytes(std::span(&config, 1)), offset, target);
}

std::size_t NetDevice::control_index() const {
  return (features_ & virtio_net::kMq) != 0 ? std::size_t{2} * max_pairs() : 2;
}

PairContext NetDevice::pair_context() {
  return {.backend = parts_.backend.get(),
          .interrupts = interrupts_,
          .counters = &counters_,
          .broken = &broken_,
          .link_lost = [this] { lose_link(); },
          .features = features_,
          .mtu = parts_.mtu.value_or(virtio_net::kDefaultMtu)};
}

void NetDevice::break_device(std::string_view reason) {
  if (!broken_.exchange(true)) interrupts_->needs_reset(reason);
}

// By the thread of the pair that noticed.
void NetDevice::lose_link() {
  if (link_up_.exchange(false)) {
    log::warn_limited(limit_, "{}: the link is down", parts_.name);
    if ((features_ & virtio_net::kStatus) != 0) interrupts_->config_changed();
  }
  retry_link();
}

// On the thread of pair 0, as is what follows. The timer ends with the worker; a device that is
// activated without its network finds that out again.
void NetDevice::retry_link() {
  const auto delay = parts_.backend->retry_delay();
  if (!delay) return;
  (void)pairs_[0].worker->loop().add_timer(EventLoop::Clock::now() + *delay,
                                           [this] { restore_link(); });
}

void NetDevice::restore_link() {
  auto result = parts_.backend->reopen();
  if (result) result = parts_.backend->start(offloads());
  if (result) result = pairs_[0].served->regain_link();
  if (!result) {
    log::warn_limited(limit_, "{}: {}", parts_.name, result.error().message());
    return retry_link();
  }
  link_up_ = true;
  log::warn_limited(limit_, "{}: the link is up again", parts_.name);
  if ((features_ & virtio_net::kStatus) != 0) interrupts_->config_changed();
}

std::uint64_t NetDevice::offloads() const {
  return (features_ & kOffloads & ~kGuestOffloads) | guest_offloads_;
}

Result<void> NetDevice::activate(Activation activation) {
  features_ = activation.features;
  interrupts_ = activation.interrupts;
  queue_count_ = activation.queues.size();
  broken_ = false;
  if (!activation.resumed) {
    std::lock_guard lock(mac_mutex_);
    current_mac_ = parts_.mac;
    active_pairs_ = 1;
    guest_offloads_ = features_ & kGuestOffloads;
  }
  pairs_.clear();
  pairs_.resize(max_pairs());
  auto& queues = activation.queues;
  queues.resize(std::size_t{2} * max_pairs() + 1);
  // The control queue first: without MQ it is where the second pair would begin.
  const std::size_t control = control_index();
  control_idle_ = std::exchange(queues[control], std::nullopt);
  for (unsigned i = 0; i < max_pairs(); ++i) {
    pairs_[i].receive = std::move(queues[std::size_t{2} * i]);
    pairs_[i].transmit = std::move(queues[std::size_t{2} * i + 1]);
  }
  active_ = true;
  if (auto result = start_serving(activation.resumed); !result) {
    (void)deactivate();
    return result;
  }
  return {};
}

// Runs `task` on a worker and returns its result.
template <typename Task>
static Result<void> call_result(Worker& worker, Task task) {
  Result<void> result;
  worker.loop().call([&] { result = task(); });
  return result;
}

Result<void> NetDevice::start_serving(bool resumed) {
  if (!backend_started_) {
    backend_started_ = true;
    if (auto result = parts_.backend->start(features_ & kOffloads); !result) {
      // A guest that starts anew after its network went away finds its cable unplugged.
      log::warn_limited(limit_, "{}: {}", parts_.name, result.error().message());
      if (link_up_.exchange(false) && resumed) tells_link_ = true;
    }
  }
  pairs_[0].worker = TRY(Worker::start(parts_.name));
  if (parts_.vhost) start_vhost();
  if (!parts_.vhost) TRY(start_pair(0));
  if (const int notice = parts_.backend->notice_fd(); notice >= 0) {
    TRY(call_result(*pairs_[0].worker, [&] {
      return pairs_[0].worker->loop().watch(
          notice, EPOLLIN, [this](std::uint32_t) { parts_.backend->take_notice(); });
    }));
  }
  if (resumed) {
    if (active_pairs_ > 1 && !set_pairs(active_pairs_)) {
      return fail("{} queue pairs cannot be served here", active_pairs_);
    }
    if (guest_offloads_ != (features_ & kGuestOffloads)) (void)set_offloads(guest_offloads_);
  }
  if (std::exchange(tells_link_, false) && (features_ & virtio_net::kStatus) != 0) {
    interrupts_->config_changed();
  }
  if ((features_ & virtio_net::kCtrlVq) != 0 && control_idle_) TRY(start_control());
  return {};
}

Result<void> NetDevice::start_pair(unsigned index) {
  auto& pair = pairs_[index];
  if (!pair.receive || !pair.transmit) return {};  // the driver left it out
  if (!pair.worker) {
    pair.worker = TRY(Worker::start(fmt::format("{}.{}", parts_.name, index)));
  }
  pair.served = std::make_shared<QueuePair>(index, pair_context(), std::move(*pair.receive),
                                            std::move(*pair.transmit));
  return call_result(*pair.worker, [&] { return pair.served->attach(pair.worker->loop()); });
}

void NetDevice::stop_pair(unsigned index) {
  auto& pair = pairs_[index];
  if (!pair.served) return;
  pair.worker->loop().call([&] { pair.served->detach(); });
}

Result<void> NetDevice::start_control() {
  control_ = std::make_unique<ControlQueue>(
      static_cast<std::uint16_t>(control_index()), std::move(*control_idle_), *interrupts_,
      ControlQueue::Handlers{
          .set_pairs = [this](unsigned pairs) { return set_pairs(pairs); },
          .set_mac =
              [this](const net::MacAddress& mac) {
                if ((features_ & virtio_net::kCtrlMacAddr) == 0) return false;
                std::lock_guard lock(mac_mutex_);
                current_mac_ = mac;
                return true;
              },
          .set_offloads = [this](std::uint64_t wanted) { return set_offloads(wanted); },
          .broken = [this](std::string_view reason) { break_device(reason); }});
  control_idle_.reset();
  auto& loop = pairs_[0].worker->loop();
  return call_result(*pairs_[0].worker, [&] { return control_->attach(loop); });
}

bool NetDevice::set_pairs(unsigned pairs) {
  if ((features_ & virtio_net::kMq) == 0 || pairs == 0 || pairs > max_pairs()) return false;
  auto result = parts_.backend->set_active_pairs(pairs);
  // Their number is bounded by the tap's, so pairs that rest keep their threads.
  for (unsigned i = 1; i < pairs && result && !parts_.vhost; ++i) {
    if (!pairs_[i].served) result = start_pair(i);
  }
  if (!result) log::warn_limited(limit_, "{}: {}", parts_.name, result.error().message());
  if (result) active_pairs_ = pairs;
  return result.has_value();
}

bool NetDevice::set_offloads(std::uint64_t features) {
  if ((features_ & virtio_net::kCtrlGuestOffloads) == 0) return false;
  const auto negotiated = features_ & kGuestOffloads;
  if ((features & ~negotiated) != 0) return false;
  const auto before = std::exchange(guest_offloads_, features);
  // While the link is down they wait for restore_link().
  if (!link_up_ || parts_.backend->set_offloads(offloads())) return true;
  guest_offloads_ = before;
  return false;
}

// A driver that is told to reset its device because of the host may reset it for ever, and Linux
// does not at all.
void NetDevice::start_vhost() {
  const auto started = try_vhost();
  if (started) return;
  stop_vhost();
  log::warn_limited(limit_, "{}: {}: its queues are served by vmm itself", parts_.name,
                    started.error().message());
  parts_.vhost.reset();
  has_vhost_ = false;
}

Result<void> NetDevice::try_vhost() {
  std::vector<std::optional<net::VhostNet::RingPair>> rings(max_pairs());
  auto& loop = pairs_[0].worker->loop();
  const auto call_fd = [&](std::uint16_t queue) -> Result<int> {
    if (auto fd = interrupts_->queue_event_fd(queue)) return fd;
    // No vector: the interrupt goes through this process.
    calls_.push_back(TRY(EventFd::create()));
    const int fd = calls_.back().fd();
    TRY(call_result(*pairs_[0].worker, [&] {
      return loop.watch(fd, EPOLLIN | EPOLLET,
                        [this, queue](std::uint32_t) { interrupts_->queue_used(queue); });
    }));
    return fd;
  };
  for (unsigned i = 0; i < max_pairs(); ++i) {
    auto& pair = pairs_[i];
    if (!pair.receive || !pair.transmit) continue;
    const auto receive = static_cast<std::uint16_t>(2 * i);
    const auto transmit = static_cast<std::uint16_t>(2 * i + 1);
    rings[i] = {
        .receive = {&pair.receive->queue, pair.receive->kick->fd(), TRY(call_fd(receive))},
        .transmit = {&pair.transmit->queue, pair.transmit->kick->fd(), TRY(call_fd(transmit))}};
  }
  TRY(parts_.vhost->start(memory_, features_, rings, *parts_.backend));
  return call_result(*pairs_[0].worker, [&] {
    return loop.watch(parts_.vhost->error_fd(), EPOLLIN, [this](std::uint32_t) {
      if (parts_.vhost->consume_error()) break_device("vhost-net found a broken ring");
    });
  });
}

void NetDevice::stop_vhost() {
  std::vector<Queue*> queues;
  for (auto& pair : pairs_) {
    queues.push_back(pair.receive ? &pair.receive->queue : nullptr);
    queues.push_back(pair.transmit ? &pair.transmit->queue : nullptr);
  }
  parts_.vhost->stop(memory_, queues);
  (void)parts_.vhost->consume_error();  // of this life of the device
}

std::vector<std::optional<Queue>> NetDevice::deactivate() {
  auto queues = stop_serving();
  if (std::exchange(backend_started_, false) && link_up_) parts_.backend->stop();
  return queues;
}

// The backend goes on: connections through a user network last.
std::vector<std::optional<Queue>> NetDevice::suspend() { return stop_serving(); }

std::vector<std::optional<Queue>> NetDevice::stop_serving() {
  if (!active_) return {};
  active_ = false;
  // Commands first: they start pairs.
  if (pairs_[0].worker) {
    pairs_[0].worker->loop().call([this] {
      if (control_) control_->detach();
    });
  }
  for (unsigned i = 0; i < max_pairs(); ++i) stop_pair(i);
  for (auto& pair : pairs_) pair.worker.reset();
  if (parts_.vhost) stop_vhost();
  calls_.clear();

  std::vector<std::optional<Queue>> queues(std::max(queue_count_, 2 * pairs_.size() + 1));
  for (std::size_t i = 0; i < pairs_.size(); ++i) {
    auto& pair = pairs_[i];
    if (pair.served) {
      queues[2 * i] = pair.served->take_receive();
      queues[2 * i + 1] = pair.served->take_transmit();
      continue;
    }
    if (pair.receive) queues[2 * i] = std::move(pair.receive->queue);
    if (pair.transmit) queues[2 * i + 1] = std::move(pair.transmit->queue);
  }
  if (control_) queues[control_index()] = control_->take_queue();
  if (control_idle_) queues[control_index()] = std::move(control_idle_->queue);
  queues.resize(queue_count_);
  control_.reset();
  control_idle_.reset();
  pairs_.clear();
  interrupts_ = nullptr;
  return queues;
}

void NetDevice::save(state::Sections& sections, std::string_view name) const {
  std::lock_guard lock(mac_mutex_);
  sections.put(name, NetState{.mac = {current_mac_.bytes.begin(), current_mac_.bytes.end()},
                              .active_pairs = static_cast<std::uint16_t>(active_pairs_),
                              .guest_offloads = guest_offloads_});
}

// The address that the driver knows is not taken over: a copy has one of its own, which its driver
// reads when it looks again.
Result<void> NetDevice::restore(state::Sections& sections, std::string_view name) {
  const auto state = TRY(sections.take<NetState>(name));
  if (state.active_pairs == 0 || state.active_pairs > max_pairs()) {
    return fail("{} used {} queue pairs, here it has {}", name, state.active_pairs, max_pairs());
  }
  hides_ecn_ = false;
  active_pairs_ = state.active_pairs;
  guest_offloads_ = state.guest_offloads & kGuestOffloads;
  tells_link_ = true;
  return {};
}

}  // namespace vmm::virtio
