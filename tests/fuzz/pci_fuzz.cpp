// A guest's accesses to configuration space and to a virtio device's registers and MSI-X table:
// each eight bytes of the input are one access.
#include "devices/pci/host.h"
#include "devices/virtio/pci/transport.h"
#include "devices/virtio/rng/rng_device.h"
#include "tests/fuzz/device_input.h"

namespace vmm::fuzz {
namespace {

constexpr MemoryRange kWindow{GuestAddress{0xc000'0000}, 0x1000'0000};

struct Nowhere : MsiSink, DoorbellRegistry {
  void send(const MsiMessage&) override {}
  Result<std::unique_ptr<MsiRoute>> create_route() override { return fail("no routes"); }
  Result<void> attach(GuestAddress, const EventFd&) override { return {}; }
  void detach(GuestAddress, const EventFd&) override {}
};

struct Access {
  std::uint8_t kind;  // bit 0: a write, 1: configuration space, 2-3: size
  std::uint8_t high;
  std::uint16_t offset;
  std::uint32_t value;
};

void perform(pci::PciHost& host, pci::Function& function, const Access& access) {
  const unsigned size = 1u << (access.kind >> 2 & 3);
  const bool config = (access.kind & 2) != 0;
  // Aligned as all accesses that reach a handler are, within what the machine maps.
  std::uint64_t offset = access.offset & ~(std::uint64_t{size} - 1);
  if (config) {
    auto& ecam = host.ecam();
    if ((access.kind & 1) != 0) {
      ecam.write(offset, size, access.value);
    } else {
      (void)ecam.read(offset, size);
    }
  } else if ((access.kind & 0x10) != 0) {  // wherever the guest put the BAR
    offset |= std::uint64_t{access.high} << 16;
    auto& window = host.window();
    if ((access.kind & 1) != 0) {
      window.write(offset, size, access.value);
    } else {
      (void)window.read(offset, size);
    }
  } else {
    offset &= 0x3fff & ~(std::uint64_t{size} - 1);
    if ((access.kind & 1) != 0) {
      function.write_bar(offset, size, access.value);
    } else {
      (void)function.read_bar(offset, size);
    }
  }
}

}  // namespace
}  // namespace vmm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  static fuzz::FuzzGuest guest;
  static fuzz::Nowhere nowhere;
  std::span input(data, size);
  guest.load(input);
  virtio::RngDevice rng(guest.loop());
  auto transport = std::move(
      virtio::PciTransport::create("fuzz", rng, guest.memory(), nowhere, nowhere).value());
  pci::PciHost host(fuzz::kWindow);
  if (!host.add(*transport)) return 0;
  for (; input.size() >= sizeof(fuzz::Access); input = input.subspan(sizeof(fuzz::Access))) {
    fuzz::Access access;
    std::memcpy(&access, input.data(), sizeof access);
    fuzz::perform(host, *transport, access);
  }
  guest.turn();
  transport->stop();
  return 0;
}
