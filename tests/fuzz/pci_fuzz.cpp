// A guest's accesses to configuration space and to a virtio device's registers and MSI-X table:
// each eight bytes of the input are one access, of any size and alignment that KVM can make.
#include "devices/pci/config_ports.h"
#include "devices/pci/host.h"
#include "devices/virtio/pci/transport.h"
#include "devices/virtio/rng/rng_device.h"
#include "src/hypervisor/bus/bus.h"
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
  std::uint8_t kind;  // bit 0: a write, 1-2: Where, 3-5: size, less one
  std::uint8_t high;
  std::uint16_t offset;
  std::uint32_t value;
};

enum Where : std::uint8_t { bar, configuration, window, ports };
constexpr std::uint64_t kEcam = 0xb000'0000;

class Machine {
 public:
  Machine(const GuestMemory& memory, virtio::Device& device) {
    static Nowhere nowhere;
    transport_ =
        std::move(virtio::PciTransport::create("fuzz", device, memory, nowhere, nowhere).value());
    host_.add(*transport_).value();
    memory_.add(kEcam, pci::kEcamBytesPerBus, host_.ecam(), "ECAM").value();
    memory_.add(kWindow.base.value, kWindow.size, host_.window(), "PCI window").value();
    port_bus_.add(pci::ConfigPorts::kBase, pci::ConfigPorts::kSize, ports_, "PCI ports").value();
    transport_->write_config(pci::kCommand, 2, pci::kCommandMemory | pci::kCommandBusMaster);
  }
  ~Machine() { transport_->stop(); }

  void perform(const Access& access) {
    const unsigned size = (access.kind >> 3 & 7) + 1u;
    switch (access.kind >> 1 & 3) {
      case Where::bar:  // where it is at first
        return perform(memory_, kWindow.base.value + (access.offset & 0x7fff), size, access);
      case Where::configuration:
        return perform(memory_, kEcam + access.offset, size, access);
      case Where::window:  // wherever the guest put the BAR
        return perform(memory_,
                       kWindow.base.value + (std::uint64_t{access.high} << 16 | access.offset),
                       size, access);
      default:
        return perform(port_bus_, pci::ConfigPorts::kBase + access.offset % 8, size, access);
    }
  }

 private:
  static void perform(const Bus& bus, std::uint64_t address, unsigned size, const Access& access) {
    if ((access.kind & 1) != 0) {
      bus.write(address, size, access.value);
    } else {
      (void)bus.read(address, size);
    }
  }

  std::unique_ptr<virtio::PciTransport> transport_;
  pci::PciHost host_{kWindow};
  pci::ConfigPorts ports_{host_};
  Bus memory_;
  Bus port_bus_;
};

}  // namespace
}  // namespace vmm::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  static fuzz::FuzzGuest guest;
  std::span input(data, size);
  guest.load(input);
  virtio::RngDevice rng(guest.loop());
  fuzz::Machine machine(guest.memory(), rng);
  for (; input.size() >= sizeof(fuzz::Access); input = input.subspan(sizeof(fuzz::Access))) {
    fuzz::Access access;
    std::memcpy(&access, input.data(), sizeof access);
    machine.perform(access);
  }
  guest.turn();
  return 0;
}
