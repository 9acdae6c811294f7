// Platform: what a guest's firmware would know of its machine, as plain data. The machine fills it
// in from its own address plan; ACPI tables (acpi/) or a device tree (fdt/) are written from it.
//
//   Platform platform;
//   platform.cpus = {{.apic_id = 0}, {.apic_id = 1}};
//   platform.io_apic = {.address = 0xfec00000, .gsi_base = 0, .id = 0};
//   platform.devices.push_back({.name = "COM1", .acpi_hid = "PNP0501", .resources = {
//       PlatformDevice::IoPorts{0x3f8, 8}, PlatformDevice::Interrupt{.gsi = 4}}});
//   const auto tables = TRY(acpi::build_tables(platform, GuestAddress{0xe0000}));
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace vmm {

inline constexpr std::uint64_t kEcamBusSize = 1u << 20;  // bytes of configuration space a bus

// A device that nothing but a table announces: a UART, a clock, a panic port. What it is says its
// hardware id; nobody here knows device kinds.
struct PlatformDevice {
  struct IoPorts {
    std::uint16_t base = 0;
    std::uint8_t size = 0;
  };
  struct Mmio32 {
    std::uint32_t base = 0;
    std::uint32_t size = 0;
  };
  enum class Trigger : std::uint8_t { edge, level };
  enum class Polarity : std::uint8_t { active_high, active_low };
  struct Interrupt {
    std::uint32_t gsi = 0;
    Trigger trigger = Trigger::edge;
    Polarity polarity = Polarity::active_high;
  };
  using Resource = std::variant<IoPorts, Mmio32, Interrupt>;
  // How a device tree tells of it (Devicetree Specification 0.4, 2.2 and 2.3).
  struct TreeNode {
    std::string name;  // the generic one, without an address: "serial"
    std::vector<std::string> compatible;
    std::vector<std::string> clocks;  // names of its clock inputs, which all are one fixed clock
  };

  std::string name;      // four characters of [A-Z0-9_], the first no digit; unique in the machine
  std::string acpi_hid;  // "PNP0501", or a name of up to 16 letters and digits
  std::optional<std::string> acpi_cid;
  std::uint32_t uid = 0;
  std::vector<Resource> resources;
  std::optional<TreeNode> node;  // nothing: a device tree does not have it
};

// A byte-wide register in one of the two address spaces.
struct PlatformRegister {
  enum class Space : std::uint8_t { memory = 0, io = 1 };  // values of ACPI 6.5, 5.2.3.2
  Space space = Space::memory;
  std::uint64_t address = 0;
};

struct Platform {
  struct Cpu {
    std::uint32_t apic_id = 0;
    std::uint64_t affinity = 0;  // of MPIDR_EL1, where a device tree is written
  };
  struct Window {
    std::uint64_t base = 0;
    std::uint64_t size = 0;  // bytes; 0 for no window
  };
  struct PciHost {
    std::uint64_t ecam_base = 0;
    std::uint8_t last_bus = 0;
    Window mmio32;
    Window mmio64;
  };
  struct IoApic {
    std::uint32_t address = 0xfec00000;
    std::uint32_t gsi_base = 0;
    std::uint8_t id = 0;
  };
  // A GICv3 (Arm IHI 0069) whose ITS takes the messages of the PCI host.
  struct Gic {
    Window distributor;
    Window redistributors;  // of all processors, 128 KiB each
    Window its;
  };
  // Interrupts of the generic timer (Arm DDI 0487, D11), by their numbers among those private to a
  // processor (PPI); level-triggered.
  struct Timer {
    std::uint32_t secure = 13;
    std::uint32_t physical = 14;
    std::uint32_t virtual_count = 11;
    std::uint32_t hypervisor = 10;
  };
  // The generic event device (ACPI 6.5, 5.6.9): one interrupt, and a status register that says why.
  // A read of `status` takes the pending events, which are these bits, and clears them.
  struct EventDevice {
    std::uint8_t power_button = 0;
    std::uint8_t generation_changed = 0;
    PlatformDevice::Interrupt interrupt;
    PlatformRegister status;
  };
  struct Reset {
    PlatformRegister reg;
    std::uint8_t value = 0;
  };
  // ACPI 6.5, 4.8.3.7. Power-off is a write of SLP_EN to `control`, with this SLP_TYP.
  struct Sleep {
    std::uint8_t power_off_type = 0;  // of the state S5
    PlatformRegister control;
    PlatformRegister status;
  };

  std::vector<Cpu> cpus;
  std::uint32_t local_apic_address = 0xfee00000;
  IoApic io_apic;
  std::optional<PciHost> pci;
  std::vector<PlatformDevice> devices;
  // Where the 16 bytes of the VM generation id are, in RAM that no one else uses.
  std::optional<std::uint64_t> generation_id_address;
  std::optional<EventDevice> events;
  std::optional<Reset> reset;
  std::optional<Sleep> sleep;

  // What only a device tree tells of. Interrupts of a machine with a GIC are numbered among those
  // shared by all processors (SPI).
  std::optional<Gic> gic;
  std::optional<Timer> timer;
  bool psci = false;    // processors start and the machine ends by PSCI calls (Arm DEN 0022), hvc
  std::string console;  // the device whose node is the console, by its name in `devices`
  std::optional<PlatformDevice::Interrupt> power_key;  // an edge: pressed and released
  std::optional<PlatformDevice::Interrupt> generation_changed;
};

}  // namespace vmm
