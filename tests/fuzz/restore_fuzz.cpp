// Saved states that somebody made up, put into new devices; the vCPU's and the interrupt
// controller's are in restore_vcpu_fuzz.cpp. What a device takes it must be able to save again, to
// restore from that, and to serve a guest with.
#include "devices/legacy/cmos_rtc.h"
#include "devices/legacy/pl011.h"
#include "devices/legacy/pl031.h"
#include "devices/legacy/power_ports.h"
#include "devices/legacy/uart16550.h"
#include "devices/pci/config_ports.h"
#include "devices/virtio/balloon/balloon_device.h"
#include "devices/virtio/blk/block_device.h"
#include "devices/virtio/net/net_device.h"
#include "devices/virtio/pci/transport.h"
#include "devices/virtio/rng/rng_device.h"
#include "devices/virtio/vsock/vsock_device.h"
#include "tests/fuzz/device_input.h"
#include "tests/fuzz/state_input.h"

namespace vmm::fuzz {
namespace {

using Input = std::span<const std::uint8_t>;

constexpr MemoryRange kWindow{GuestAddress{0xc000'0000}, 0x1000'0000};

struct Nowhere : InterruptLine, MsiSink, DoorbellRegistry {
  void set_level(bool) override {}
  void send(const MsiMessage&) override {}
  Result<std::unique_ptr<MsiRoute>> create_route() override { return fail("no routes"); }
  Result<void> attach(GuestAddress, const EventFd&) override { return {}; }
  void detach(GuestAddress, const EventFd&) override {}
};
Nowhere nowhere;

// ---- what is no PCI function

void use(IoHandler& handler, std::uint64_t size) {
  for (std::uint64_t offset = 0; offset < std::min<std::uint64_t>(size, 0x80); ++offset) {
    (void)handler.read(offset, 1);
  }
}

// `make` returns a new device.
template <typename Make>
void restore_plain(Input input, std::uint64_t size, Make make) {
  auto device = make();
  const auto state = decoded(device->save(), input);
  if (!state) return;
  if constexpr (std::is_void_v<decltype(device->restore(*state))>) {
    device->restore(*state);
  } else {
    if (!device->restore(*state)) return;
  }
  const auto saved = device->save();
  auto copy = make();
  if constexpr (std::is_void_v<decltype(copy->restore(saved))>) {
    copy->restore(saved);
  } else {
    require(copy->restore(saved).has_value());
  }
  require(state::encode(copy->save()) == state::encode(saved));
  use(*device, size);
}

void restore_pci_host(Input input) {
  pci::PciHost host(kWindow);
  const auto state = decoded(host.save(), input);
  if (!state || !host.restore(*state)) return;
  require(pci::PciHost(kWindow).restore(host.save()).has_value());
  use(host.ecam(), 256);
}

// ---- virtio

class NullChannel : public disk::Channel {
 public:
  void submit(const disk::Request& request) override { done_.push_back({request.tag, 0}); }
  void commit() override {}
  std::span<const disk::Completion> reap() override {
    reaped_ = std::exchange(done_, {});
    return reaped_;
  }
  void wait() override {}

 private:
  std::vector<disk::Completion> done_, reaped_;
};

class NullDisk : public disk::Disk {
 public:
  const disk::DiskInfo& info() const override { return info_; }
  const std::string& name() const override { return name_; }
  std::unique_ptr<disk::Channel> open_channel(EventLoop&, std::function<void()>) override {
    return std::make_unique<NullChannel>();
  }
  Result<void> sync() override { return {}; }
  Result<void> read(std::uint64_t, std::span<std::byte>) override { return {}; }

 private:
  const disk::DiskInfo info_{.size = 32u << 10};
  const std::string name_ = "null";
};

class NullBackend : public net::NetBackend {
 public:
  unsigned queue_pairs() const override { return 2; }
  std::uint64_t features() const override { return 0; }
  Result<void> start(std::uint64_t) override { return {}; }
  void stop() override {}
  Result<void> set_offloads(std::uint64_t) override { return {}; }
  Result<void> set_active_pairs(unsigned) override { return {}; }
  int fd(unsigned) const override { return event_.fd(); }
  net::SendResult send(unsigned, std::span<const net::Frame> frames) override {
    return {.done = frames.size()};
  }
  net::ReceiveResult receive(unsigned, std::span<const iovec>) override {
    return {0, net::IoState::blocked};
  }

 private:
  EventFd event_ = std::move(EventFd::create().value());
};

constexpr unsigned kDevices = 5;

std::unique_ptr<virtio::Device> make_device(unsigned kind, FuzzGuest& guest) {
  switch (kind) {
    case 0:
      return std::make_unique<virtio::RngDevice>(guest.loop());
    case 1:
      return std::make_unique<virtio::BalloonDevice>(guest.memory(), guest.loop());
    case 2:
      return std::move(
          virtio::BlockDevice::create(std::make_unique<NullDisk>(), {.path = "null"}, "blk0")
              .value());
    case 3:
      return std::make_unique<virtio::NetDevice>(
          virtio::NetDevice::Parts{.name = "net0", .backend = std::make_unique<NullBackend>()},
          guest.memory());
    default:
      return std::move(virtio::VsockDevice::create({.cid = 3}, guest.loop()).value());
  }
}

struct Function {
  Function(unsigned kind, FuzzGuest& guest)
      : device(make_device(kind, guest)),
        transport(std::move(
            virtio::PciTransport::create("fuzz", *device, guest.memory(), nowhere, nowhere)
                .value())) {}
  std::unique_ptr<virtio::Device> device;
  std::unique_ptr<virtio::PciTransport> transport;
};

// As a driver leaves it: active, all queues enabled in the rings of FuzzGuest.
virtio::TransportState good_transport(unsigned kind, FuzzGuest& guest) {
  Function function(kind, guest);
  auto& transport = *function.transport;
  const auto write = [&](std::uint64_t at, unsigned size, std::uint64_t value) {
    transport.write_bar(at, size, value);
  };
  transport.write_config(pci::kCommand, 2, pci::kCommandMemory | pci::kCommandBusMaster);
  write(0x14, 1, 3);
  for (unsigned half = 0; half < 2; ++half) {
    write(0, 4, half);
    write(8, 4, half);
    write(0xc, 4, transport.read_bar(4, 4));
  }
  write(0x14, 1, 11);
  const std::uint64_t queues = transport.read_bar(0x12, 2);
  for (std::uint64_t i = 0; i < queues; ++i) {
    write(0x16, 2, i);
    write(0x18, 2, kQueueSize);
    write(0x20, 4, i * kQueueStride);
    write(0x28, 4, i * kQueueStride + 0x100);
    write(0x30, 4, i * kQueueStride + 0x200);
    write(0x1c, 2, 1);
  }
  guest.load({});
  write(0x14, 1, 15);
  transport.suspend();
  return transport.save();
}

// The device's own section under the name "x", with the input in the place of its body.
state::Sections device_sections(virtio::Device& device, Input input) {
  struct Whole {
    std::vector<state::Section> sections;
    void fields(state::Encoder& encoder) { encoder(1, sections); }
  } whole;
  state::Sections good;
  device.save(good, "x");
  good.for_each([&](const state::Section& section) {
    auto& edited = whole.sections.emplace_back(section);
    edited.body = state_bytes(section.body, input);
  });
  auto bytes = state::encode(whole);
  const auto magic = good.to_bytes();
  bytes.insert(bytes.begin(), magic->begin(), magic->begin() + 8);
  return state::Sections::from_bytes(bytes).value();
}

void restore_virtio(unsigned kind, Input input) {
  static FuzzGuest guest;
  static std::array<std::optional<virtio::TransportState>, kDevices> good;
  if (!good[kind]) good[kind] = good_transport(kind, guest);
  if (input.empty()) return;
  const std::size_t own = std::min<std::size_t>(input[0] & 31, input.size() - 1);
  const Input of_device = input.subspan(1, own), of_transport = input.subspan(1 + own);
  guest.load({});
  Function function(kind, guest);
  auto sections = device_sections(*function.device, of_device);
  if (!function.device->restore(sections, "x")) return;
  const auto state = decoded(*good[kind], of_transport);
  if (!state || !function.transport->restore(*state)) return;

  Function copy(kind, guest);
  state::Sections saved;
  function.device->save(saved, "x");
  require(copy.device->restore(saved, "x").has_value());
  require(copy.transport->restore(function.transport->save()).has_value());

  auto& transport = *function.transport;
  (void)transport.resume();
  for (std::uint64_t at = 0; at < 0x38; at += 4) (void)transport.read_bar(at, 4);
  for (std::uint64_t at = 0; at < 0x100; at += 8) (void)transport.read_bar(0x4000 + at, 8);
  transport.write_bar(0x3000, 2, 0);
  guest.turn();
  transport.suspend();
  (void)transport.save();
  (void)transport.resume();
  transport.write_bar(0x14, 1, 0);
  transport.stop();
}

}  // namespace
}  // namespace vmm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  using namespace vmm::fuzz;
  if (size == 0) return 0;
  const Input input(data + 1, size - 1);
  const auto nothing = [] {};
  const auto now = [] { return std::time_t{1'700'000'000}; };
  const auto lost = [](std::span<const std::byte>) {};
  constexpr unsigned kPlain = 7;
  const unsigned kind = data[0] % (kPlain + kDevices);
  switch (kind) {
    case 0:
      restore_plain(input, Uart16550::kSize,
                    [&] { return std::make_unique<Uart16550>(nowhere, lost, nothing); });
      break;
    case 1:
      restore_plain(input, Pl011::kSize,
                    [&] { return std::make_unique<Pl011>(nowhere, lost, nothing); });
      break;
    case 2:
      restore_plain(input, CmosRtc::kSize, [&] { return std::make_unique<CmosRtc>(now); });
      break;
    case 3:
      restore_plain(input, Pl031::kSize, [&] { return std::make_unique<Pl031>(now); });
      break;
    case 4:
      restore_plain(input, PowerPorts::kSize,
                    [&] { return std::make_unique<PowerPorts>(nowhere, nothing, nothing); });
      break;
    case 5: {
      pci::PciHost host(kWindow);
      restore_plain(input, pci::ConfigPorts::kSize,
                    [&] { return std::make_unique<pci::ConfigPorts>(host); });
      break;
    }
    case 6:
      restore_pci_host(input);
      break;
    default:
      restore_virtio(kind - kPlain, input);
  }
  return 0;
}
