// The network device's queues over a backend in memory, and what the network process does to the
// frames of a hostile guest.
#include <algorithm>
#include <atomic>
#include <string_view>

#include "devices/virtio/net/config.h"
#include "devices/virtio/net/control_queue.h"
#include "devices/virtio/net/queue_pair.h"
#include "src/user_net/fragments.h"
#include "src/user_net/gate.h"
#include "src/user_net/offload.h"
#include "src/user_net/virtio_net.h"
#include "tests/fuzz/device_input.h"

namespace vmm::fuzz {
namespace {

// Frames come in sizes that the input chooses; every byte of what goes out is read.
class MemoryBackend : public net::NetBackend {
 public:
  unsigned queue_pairs() const override { return 1; }
  std::uint64_t features() const override { return 0; }
  Result<void> start(std::uint64_t) override { return {}; }
  void stop() override {}
  Result<void> set_offloads(std::uint64_t) override { return {}; }
  Result<void> set_active_pairs(unsigned) override { return {}; }
  int fd(unsigned) const override { return event_.fd(); }

  net::SendResult send(unsigned, std::span<const net::Frame> frames) override {
    net::SendResult result;
    for (const auto& frame : frames) {
      if (choose() % 8 == 7) {
        result.state = net::IoState::blocked;
        return result;
      }
      for (const auto& part : frame) {
        for (std::size_t i = 0; i < part.iov_len; ++i) {
          sum_ += std::to_integer<unsigned>(static_cast<const std::byte*>(part.iov_base)[i]);
        }
      }
      ++result.done;
    }
    return result;
  }
  net::ReceiveResult receive(unsigned, std::span<const iovec> buffers) override {
    if (choices_.empty()) return {0, net::IoState::blocked};
    const auto choice = choose();
    if (choice == 255) return {0, net::IoState::closed};
    const std::size_t size =
        std::min(net::kMinFrame + std::size_t{choice} * choice, net::kMaxFrame);
    std::size_t left = size;
    for (const auto& part : buffers) {
      const std::size_t length = std::min(left, part.iov_len);
      std::memset(part.iov_base, choice, length);
      left -= length;
    }
    if (left != 0) __builtin_trap();  // less room than a backend is promised
    return {size, net::IoState::ready};
  }

  void choose_from(std::span<const std::uint8_t> choices) { choices_ = choices; }

 private:
  std::uint8_t choose() {
    if (choices_.empty()) return 0;
    const auto choice = choices_.front();
    choices_ = choices_.subspan(1);
    return choice;
  }
  EventFd event_ = std::move(EventFd::create().value());
  std::span<const std::uint8_t> choices_;
  volatile unsigned sum_ = 0;
};

void fuzz_queues(std::span<const std::uint8_t> input) {
  static FuzzGuest guest;
  const auto features =
      take_features(input, virtio_net::kMrgRxbuf | virtio_net::kGuestCsum | virtio_net::kGuestTso4);
  MemoryBackend backend;
  const std::size_t choices = std::min<std::size_t>(input.size(), 32);
  backend.choose_from(input.first(choices));
  guest.load(input.subspan(choices));
  virtio::NetCounters counters;
  std::atomic<bool> broken{false};
  const auto pair =
      std::make_shared<virtio::QueuePair>(0,
                                          virtio::PairContext{.backend = &backend,
                                                              .interrupts = &guest.interrupts(),
                                                              .counters = &counters,
                                                              .broken = &broken,
                                                              .link_lost = [] {},
                                                              .features = features,
                                                              .mtu = 1500},
                                          guest.queue(0, features), guest.queue(1, features));
  virtio::ControlQueue control(2, guest.queue(2, features), guest.interrupts(),
                               {.set_pairs = [](unsigned pairs) { return pairs == 1; },
                                .set_mac = [](const net::MacAddress&) { return true; },
                                .set_offloads = [](std::uint64_t) { return true; },
                                .broken = [](std::string_view) {}});
  if (!pair->attach(guest.loop()) || !control.attach(guest.loop())) return;
  for (int i = 0; i < 3; ++i) {
    for (std::size_t queue = 0; queue < 3; ++queue) guest.kick(queue);
    guest.turn();
  }
  pair->detach();
  control.detach();
  if (pair->take_receive().in_flight() != 0 || pair->take_transmit().in_flight() != 0) {
    __builtin_trap();
  }
}

user_net::Config gate_config() {
  user_net::Config config;
  config.ipv6 = true;
  config.denied = {user_net::IpNetwork{user_net::ipv4(128, 0, 0, 0), 97}};
  config.forwards = {{.protocol = user_net::HostForward::Protocol::udp, .guest_port = 53}};
  return config;
}

void fuzz_offloads(std::span<const std::uint8_t> input) {
  virtio_net::Header header;
  if (input.size() < sizeof header) return;
  std::memcpy(&header, input.data(), sizeof header);
  const auto rest = std::as_bytes(input.subspan(sizeof header));
  std::vector<std::byte> frame(rest.begin(), rest.end());
  (void)user_net::complete_checksum(header, frame);
  static user_net::Fragments fragments;
  if (user_net::Fragments::is_fragment(frame)) {
    const auto whole = fragments.add(frame, 0);
    frame.assign(whole.begin(), whole.end());
  }
  static user_net::Gate gate(gate_config());
  gate.note_answerable(frame);
  if (gate.judge(frame) == user_net::Gate::Verdict::refuse) {
    user_net::Gate::refuse_connection(frame);
    if (gate.judge(frame) != user_net::Gate::Verdict::refuse) __builtin_trap();
  }
  const auto tcp = user_net::find_tcp(frame);
  if (!tcp) return;
  static user_net::SegmentSizes sizes;
  if (const auto mss = user_net::raise_mss(frame, *tcp, 65480)) {
    sizes.remember(frame, *tcp, *mss);
  }
  const std::uint16_t mss = sizes.find(frame, *tcp);
  const std::size_t payload = frame.size() - tcp->payload;
  std::vector<std::byte> piece;
  for (std::size_t at = 0; at < payload; at += mss) {
    user_net::cut_segment(frame, *tcp, at, std::min<std::size_t>(mss, payload - at), piece);
  }
  (void)user_net::prepare_large_segment(frame, *tcp, mss);
}

}  // namespace
}  // namespace vmm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  if (size == 0) return 0;
  const std::span input(data + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      fuzz::fuzz_queues(input);
      break;
    case 1:
      fuzz::fuzz_offloads(input);
      break;
    default:
      (void)virtio::parse_net_config(
          std::string_view(reinterpret_cast<const char*>(input.data()), input.size()));
  }
  return 0;
}
