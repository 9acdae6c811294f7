// How a frame passes:
//
//  1. The machine's frames come in batches. A control message tells what the guest negotiated.
//  2. Checksums that the guest left out are filled in, as libslirp checks them; in SYNs the maximum
//     segment size is raised when the guest takes large segments.
//     Fragments are put together, and the gate drops what the guest is not to reach.
//  3. libslirp ends the guest's connections here and opens sockets for them; data goes to a socket
//     at once where the socket takes it.
//  4. What libslirp sends is given a virtio header: large segments become segmentation offload, or
//     are cut for guests without; other packets above the MTU are fragmented.
//  5. While the machine does not take its frames, sockets are not read. TCP then waits in the
//     host's kernel, and nothing is lost.
#include "src/user_net/gateway.h"

#include <arpa/inet.h>
#include <libslirp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "src/user_net/accept_pause.h"
#include "src/user_net/bytes.h"
#include "src/user_net/packet.h"

namespace vmm::user_net {
namespace {

// libslirp's segments: a third of the largest window it knows, 64 KiB. It does not tell the guest
// of a window that opened by less than two of them (tcp_output). So two of them and what may be
// left of a window, less than the guest's own segment, must not exceed it, or a connection whose
// receiver is slow rests until the guest asks.
constexpr std::uint16_t kLargestMss = 21840;
constexpr std::uint16_t kLargestMssForLargeMtu = 16380;
constexpr std::size_t kTcpIpHeaders = 40;
// Batches of frames between two looks at the sockets.
constexpr int kRounds = 4;
constexpr int kBacklog = 256;

constexpr bool has(std::uint64_t features, std::uint64_t feature) {
  return (features & feature) != 0;
}

in_addr to_in_addr(Ipv4Address address) { return {htonl(address.value)}; }
in6_addr to_in6_addr(const IpAddress& address) {
  in6_addr result;
  std::memcpy(&result, address.bytes.data(), sizeof result);
  return result;
}

std::int64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}
std::int64_t now_ms() { return now_ns() / 1'000'000; }

}  // namespace

struct Gateway::Timer {
  SlirpTimerCb callback;
  void* opaque;
  std::int64_t expires_ms = -1;  // -1: not set
};

// libslirp's callbacks, all on the thread of run().
struct SlirpCallbacks {
  static Gateway& self(void* opaque) { return *static_cast<Gateway*>(opaque); }

  static ssize_t send_packet(const void* bytes, std::size_t size, void* opaque) {
    self(opaque).give_frame({static_cast<const std::byte*>(bytes), size});
    return static_cast<ssize_t>(size);
  }
  static void guest_error(const char*, void*) {}
  static std::int64_t clock(void*) { return now_ns(); }
  static void* timer_new(SlirpTimerCb callback, void* callback_opaque, void* opaque) {
    auto& timers = self(opaque).timers_;
    timers.push_back(std::make_unique<Gateway::Timer>(Gateway::Timer{callback, callback_opaque}));
    return timers.back().get();
  }
  static void timer_free(void* timer, void* opaque) {
    std::erase_if(self(opaque).timers_, [timer](const auto& t) { return t.get() == timer; });
  }
  static void timer_modify(void* timer, std::int64_t expires_ms, void*) {
    static_cast<Gateway::Timer*>(timer)->expires_ms = expires_ms;
  }
  static void register_fd(int, void*) {}
  static void unregister_fd(int, void*) {}
  static void notify(void*) {}
  static int add_poll(int fd, int events, void* opaque) {
    return self(opaque).add_poll(fd, events);
  }
  static int returned_events(int index, void* opaque) {
    return self(opaque).returned_events(index);
  }

  static constexpr SlirpCb kTable = {.send_packet = send_packet,
                                     .guest_error = guest_error,
                                     .clock_get_ns = clock,
                                     .timer_new = timer_new,
                                     .timer_free = timer_free,
                                     .timer_mod = timer_modify,
                                     .register_poll_fd = register_fd,
                                     .unregister_poll_fd = unregister_fd,
                                     .notify = notify,
                                     .init_completed = nullptr,
                                     .timer_new_opaque = nullptr};
};

Gateway::Gateway(Config config, Link& link, UniqueFd port_requests)
    : config_(std::move(config)),
      link_(link),
      ports_(std::move(port_requests)),
      gate_(config_),
      names_(config_, [this](std::span<const std::byte> frame) { give_frame(frame); }),
      name_connections_(config_),
      largest_mss_(config_.mtu <= kLargestMss ? kLargestMss : kLargestMssForLargeMtu) {}

Gateway::~Gateway() {
  if (slirp_ != nullptr) ::slirp_cleanup(slirp_);
}

Result<void> Gateway::set_up() {
  SlirpConfig slirp{};
  slirp.version = 4;
  slirp.restricted = config_.restricted ? 1 : 0;
  slirp.in_enabled = true;
  slirp.vnetwork = to_in_addr(config_.network);
  slirp.vnetmask = to_in_addr({~std::uint32_t{0} << (32 - config_.prefix)});
  slirp.vhost = to_in_addr(config_.gateway);
  slirp.vdhcp_start = to_in_addr(config_.dhcp_start);
  slirp.vnameserver = to_in_addr(config_.dns);
  // The gate keeps a guest from the host's loopback. libslirp's own switch would also keep a
  // published UDP port from answering there.
  slirp.disable_host_loopback = false;
  slirp.in6_enabled = config_.ipv6;
  if (config_.ipv6) {
    slirp.vprefix_addr6 = to_in6_addr(kNetwork6.address);
    slirp.vprefix_len = static_cast<std::uint8_t>(kNetwork6.prefix);
    slirp.vhost6 = to_in6_addr(kGateway6);
    slirp.vnameserver6 = to_in6_addr(kDns6);
  }
  slirp.vhostname = config_.hostname.empty() ? nullptr : config_.hostname.c_str();
  slirp.if_mtu = largest_mss_ + kTcpIpHeaders;
  slirp.if_mru = slirp.if_mtu;
  slirp.disable_dns = true;  // libslirp's: queries are relayed here
  slirp_ = ::slirp_new(&slirp, &SlirpCallbacks::kTable, this);
  if (slirp_ == nullptr) return fail("libslirp refuses the network");
  for (const auto& forward : config_.forwards) TRY(ports_.open(slirp_, forward));
  if (!config_.restricted) TRY(name_connections_.set_up());
  widen_backlogs();
  return {};
}

void Gateway::widen_backlogs() {
  // libslirp listens with a backlog of one, which loses connections that come at once.
  std::uint32_t timeout = 0;
  fill_polls(timeout);
  for (const auto& entry : polls_) {
    int listening = 0;
    socklen_t size = sizeof listening;
    if (::getsockopt(entry.fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 &&
        listening != 0) {
      (void)::listen(entry.fd, kBacklog);  // a second call only changes the backlog
    }
  }
}

void Gateway::run(int machine) {
  machine_ = machine;
  for (;;) {
    std::uint32_t timeout_ms = UINT32_MAX;
    fill_polls(timeout_ms);
    const int n = ::poll(polls_.data(), polls_.size(),
                         timeout_ms > INT32_MAX ? -1 : static_cast<int>(timeout_ms));
    if (n < 0 && errno != EINTR) return;
    if (n <= 0) {
      for (auto& entry : polls_) entry.revents = 0;
    }
    const short link_events = polls_[0].revents;
    if (polls_[1].revents != 0) return;
    const bool asks_for_ports = polls_[2].revents != 0;
    if ((link_events & POLLOUT) != 0) link_.flush();
    if ((link_events & (POLLIN | POLLHUP | POLLERR)) != 0) {
      for (int i = 0; i < kRounds; ++i) {
        const auto received =
            link_.receive([this](std::span<std::byte> message) { take_message(message); });
        if (received == Link::Received::gone) return;
        if (received == Link::Received::all) break;
      }
    }
    ::slirp_pollfds_poll(slirp_, n < 0 ? 1 : 0, &SlirpCallbacks::returned_events, this);
    const std::span<const pollfd> polls(polls_);
    names_.run(polls.subspan(name_polls_, connection_polls_ - name_polls_));
    name_connections_.run(polls.subspan(connection_polls_), names_.servers(), now_ms());
    run_timers();
    // Behind what looks at sockets by the numbers that were polled.
    if (asks_for_ports) {
      if (!ports_.serve(slirp_)) return;
      if (ports_.published_udp()) gate_.publish_udp();
    }
    give_merged();
    link_.flush();
  }
}

void Gateway::fill_polls(std::uint32_t& timeout_ms) {
  polls_.clear();
  if (const auto pause = AcceptPause::own().turn(now_ms()); pause >= 0) {
    timeout_ms = std::min(timeout_ms, static_cast<std::uint32_t>(pause));
  }
  const auto link_events = static_cast<short>(link_.congested() ? POLLIN | POLLOUT : POLLIN);
  polls_.push_back({link_.fd(), link_events, 0});
  polls_.push_back({machine_, POLLIN, 0});
  polls_.push_back({ports_.fd(), POLLIN, 0});
  ::slirp_pollfds_fill(slirp_, &timeout_ms, &SlirpCallbacks::add_poll, this);
  name_polls_ = polls_.size();
  names_.add_polls(polls_, now_ms());
  connection_polls_ = polls_.size();
  name_connections_.add_polls(polls_, now_ms());
  for (const auto& timer : timers_) {
    if (timer->expires_ms < 0) continue;
    const std::int64_t left = std::max<std::int64_t>(0, timer->expires_ms - now_ms());
    timeout_ms = static_cast<std::uint32_t>(std::min<std::int64_t>(timeout_ms, left));
  }
}

void Gateway::run_timers() {
  if (timers_.empty()) return;
  const std::int64_t now = now_ms();
  for (std::size_t i = 0; i < timers_.size(); ++i) {  // a callback may set timers
    auto& timer = *timers_[i];
    if (timer.expires_ms < 0 || timer.expires_ms > now) continue;
    timer.expires_ms = -1;
    timer.callback(timer.opaque);
  }
}

int Gateway::add_poll(int fd, int events) {
  short wanted = 0;
  if ((events & SLIRP_POLL_OUT) != 0) wanted |= POLLOUT;
  if (!link_.congested()) {
    if ((events & SLIRP_POLL_IN) != 0) wanted |= POLLIN;
    if ((events & SLIRP_POLL_PRI) != 0) wanted |= POLLPRI;
  }
  // Errors and the end would be reported in any case, and libslirp reads then.
  polls_.push_back({wanted == 0 || AcceptPause::own().covers(fd) ? -1 : fd, wanted, 0});
  return static_cast<int>(polls_.size()) - 1;
}

int Gateway::returned_events(int index) const {
  // Connections that came up since fill_polls() have no index of this round.
  if (index < 0 || static_cast<std::size_t>(index) >= name_polls_) return 0;
  const short events = polls_[static_cast<std::size_t>(index)].revents;
  int result = 0;
  if ((events & POLLIN) != 0) result |= SLIRP_POLL_IN;
  if ((events & POLLOUT) != 0) result |= SLIRP_POLL_OUT;
  if ((events & POLLPRI) != 0) result |= SLIRP_POLL_PRI;
  if ((events & POLLERR) != 0) result |= SLIRP_POLL_ERR;
  if ((events & POLLHUP) != 0) result |= SLIRP_POLL_HUP;
  return result;
}

void Gateway::take_message(std::span<std::byte> message) {
  if (message.size() >= kMinFrame) return take_frame(message);
  if (message.size() != sizeof(NameServerMessage)) return take_control(message);
  NameServerMessage server;
  std::memcpy(&server, message.data(), sizeof server);
  if (server.magic != NameServerMessage::kMagic) return;
  if (server.index == 0) names_.clear_servers();
  IpAddress address;
  address.bytes = server.address;
  if (address != IpAddress{}) names_.add_server({address, server.scope});
}

void Gateway::take_control(std::span<const std::byte> message) {
  Control control;
  if (message.size() != sizeof control) return;
  std::memcpy(&control, message.data(), sizeof control);
  if (control.magic != Hello::kMagic) return;
  active_ = control.active != 0;
  skips_checksums_ = active_ && has(control.features, virtio_net::kGuestCsum);
  large_ipv4_ = skips_checksums_ && has(control.features, virtio_net::kGuestTso4);
  large_ipv6_ = skips_checksums_ && has(control.features, virtio_net::kGuestTso6);
}

void Gateway::take_frame(std::span<std::byte> message) {
  Header header;
  std::memcpy(&header, message.data(), sizeof header);
  auto frame = message.subspan(kHeaderSize);
  if ((header.flags & virtio_net::kNeedsCsum) != 0 && !complete_checksum(header, frame)) {
    return;
  }
  if (Fragments::is_fragment(frame)) {
    frame = fragments_.add(frame, now_ms());
    if (frame.empty()) return;
  }
  switch (gate_.judge(frame)) {
    case Gate::Verdict::pass:
      return take_packet(frame);
    case Gate::Verdict::refuse:
      Gate::refuse_connection(frame);
      return input(frame);
    case Gate::Verdict::drop:
      return;
  }
}

void Gateway::take_packet(std::span<std::byte> frame) {
  Packet packet;
  if (Packet::parse(frame, packet) && !config_.restricted) {
    if (names_.take(frame, packet, now_ms())) return;
    if (name_connections_.is_query(packet) &&
        !name_connections_.redirect(frame, packet, names_.servers())) {
      Gate::refuse_connection(frame);
      return input(frame);
    }
  }
  const auto tcp = find_tcp(frame);
  if (tcp && tcp->syn) {
    if (const auto mss = raise_mss(frame, *tcp, largest_mss_)) sizes_.remember(frame, *tcp, *mss);
  }
  const std::size_t most = kEthernet + kTcpIpHeaders + largest_mss_;
  if (tcp && tcp->ipv6 && frame.size() > most) {
    // libslirp refuses IPv6 packets above its own MTU, though not IPv4 ones (ip6_input).
    const std::size_t payload = frame.size() - tcp->payload;
    const std::size_t piece = most - tcp->payload;
    for (std::size_t at = 0; at < payload; at += piece) {
      cut_segment(frame, *tcp, at, std::min(piece, payload - at), cut_);
      input(cut_);
    }
    return;
  }
  input(frame);
}

void Gateway::input(std::span<const std::byte> frame) {
  ::slirp_input(slirp_, reinterpret_cast<const std::uint8_t*>(frame.data()),
                static_cast<int>(frame.size()));
}

void Gateway::give_frame(std::span<const std::byte> frame) {
  frame = name_connections_.answer(frame);
  if (!active_ || frame.size() < kEthernet || frame.size() > kMaxFrame - kHeaderSize) return;
  gate_.note_answerable(frame);
  const auto tcp = find_tcp(frame);
  if (tcp && (tcp->ipv6 ? large_ipv6_ : large_ipv4_) && Merger::takes(frame, *tcp)) {
    if (merger_.append(frame, *tcp)) return;
    give_merged();
    merger_.start(frame, *tcp);
    return;
  }
  give_merged();  // nothing passes what is held
  if (frame.size() <= kEthernet + config_.mtu) {
    Header header;
    if (skips_checksums_) header.flags = virtio_net::kDataValid;
    return link_.send(header, frame);
  }
  if (!tcp) return give_fragments(frame);
  const std::uint16_t mss = sizes_.find(frame, *tcp);
  const std::size_t payload = frame.size() - tcp->payload;
  for (std::size_t at = 0; at < payload; at += mss) {
    cut_segment(frame, *tcp, at, std::min<std::size_t>(mss, payload - at), scratch_);
    link_.send(Header{}, scratch_);
  }
}

void Gateway::give_merged() {
  if (merger_.empty()) return;
  const auto frame = merger_.frame();
  Header header{.flags = virtio_net::kDataValid};
  if (merger_.merged() || frame.size() > kEthernet + config_.mtu) {
    const auto& tcp = merger_.view();
    header = prepare_large_segment(frame, tcp, sizes_.find(frame, tcp));
    if (frame.size() - tcp.payload <= header.gso_size) header.gso_type = virtio_net::kGsoNone;
  }
  link_.send(header, frame);
  merger_.clear();
}

// RFC 791, 3.2. libslirp makes no options; it has cut what is larger than its own MTU already.
void Gateway::give_fragments(std::span<const std::byte> frame) {
  const auto version = std::to_integer<unsigned>(frame[kEthernet]) >> 4;
  if (version != 4) return link_.send(Header{}, frame);  // IPv6 has no fragments by routers
  const std::size_t header_size = kEthernet + kIpv4Header;
  const std::size_t piece = (config_.mtu - kIpv4Header) & ~std::size_t{7};
  const auto payload = frame.subspan(header_size);
  std::uint16_t cut;
  std::memcpy(&cut, &frame[kEthernet + 6], 2);
  cut = ntohs(cut);
  for (std::size_t at = 0; at < payload.size(); at += piece) {
    const std::size_t length = std::min(piece, payload.size() - at);
    const bool more = at + length < payload.size() || (cut & kMoreFragments) != 0;
    scratch_.assign(frame.begin(), frame.begin() + header_size);
    scratch_.insert(scratch_.end(), payload.begin() + static_cast<std::ptrdiff_t>(at),
                    payload.begin() + static_cast<std::ptrdiff_t>(at + length));
    const auto total = htons(static_cast<std::uint16_t>(kIpv4Header + length));
    const std::size_t offset = (cut & kFragmentOffset) + at / 8;
    const auto place = htons(static_cast<std::uint16_t>((more ? kMoreFragments : 0u) | offset));
    const std::uint16_t none = 0;
    std::memcpy(&scratch_[kEthernet + 2], &total, 2);
    std::memcpy(&scratch_[kEthernet + 6], &place, 2);
    std::memcpy(&scratch_[kEthernet + 10], &none, 2);
    const std::uint16_t sum =
        checksum_finish(checksum_add(0, std::span(scratch_).subspan(kEthernet, kIpv4Header)));
    std::memcpy(&scratch_[kEthernet + 10], &sum, 2);
    link_.send(Header{}, scratch_);
  }
}

}  // namespace vmm::user_net
