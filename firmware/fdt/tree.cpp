// One function a node. What is referred to has a phandle below.
#include "firmware/fdt/tree.h"

#include <libfdt.h>

#include <algorithm>
#include <array>
#include <set>

#include "firmware/fdt/writer.h"

namespace vmm::fdt {
namespace {

constexpr std::uint32_t kClock = 1;
constexpr std::uint32_t kGic = 2;
constexpr std::uint32_t kIts = 3;

// Interrupt specifiers (bindings/interrupt-controller/arm,gic-v3.yaml): kind, number, trigger.
constexpr std::uint32_t kShared = 0;
constexpr std::uint32_t kPrivate = 1;
constexpr std::uint32_t kLevelHigh = 4;

constexpr std::uint32_t kClockHz = 24'000'000;
constexpr std::uint32_t kPowerKeyCode = 116;  // KEY_POWER of linux/input-event-codes.h
constexpr std::uint64_t kPage = 4096;
constexpr std::size_t kAddressSeed = 8;           // of the random seed, for the kernel's address
constexpr std::uint32_t kMemory32 = 0x0200'0000;  // PCI Bus Binding to IEEE 1275, 2.2.1.1
constexpr std::uint32_t kMemory64 = 0x0300'0000;

std::string at(const std::string& name, std::uint64_t address) {
  return fmt::format("{}@{:x}", name, address);
}

std::array<std::uint32_t, 3> specifier(const PlatformDevice::Interrupt& line) {
  const bool edge = line.trigger == PlatformDevice::Trigger::edge;
  const bool high = line.polarity == PlatformDevice::Polarity::active_high;
  return {kShared, line.gsi, edge ? (high ? 1u : 2u) : (high ? kLevelHigh : 8u)};
}

template <typename T>
const T* resource(const PlatformDevice& device) {
  for (const auto& one : device.resources) {
    if (const auto* found = std::get_if<T>(&one)) return found;
  }
  return nullptr;
}

std::string node_name(const PlatformDevice& device) {
  return at(device.node->name, resource<PlatformDevice::Mmio32>(device)->base);
}

Result<void> check(const Platform& platform, const Start& start) {
  if (platform.cpus.empty()) return fail("a device tree needs a processor");
  if (!platform.gic) return fail("a device tree needs an interrupt controller");
  if (start.ram.empty()) return fail("a device tree needs memory");
  std::set<std::uint64_t> affinities;
  for (const auto& cpu : platform.cpus) {
    if (!affinities.insert(cpu.affinity).second) {
      return fail("the processor affinity {:#x} is taken twice", cpu.affinity);
    }
  }
  bool console = platform.console.empty();
  for (const auto& device : platform.devices) {
    if (!device.node) continue;
    if (resource<PlatformDevice::Mmio32>(device) == nullptr) {
      return fail("the device '{}' has a node of the device tree, but no registers", device.name);
    }
    console = console || device.name == platform.console;
  }
  if (!console) return fail("the console '{}' is not a device of the tree", platform.console);
  if (start.command_line.find('\0') != std::string::npos) {
    return fail("the kernel's command line has a NUL inside");
  }
  return {};
}

void write_chosen(Writer& writer, const Platform& platform, const Start& start) {
  writer.begin("chosen");
  for (const auto& device : platform.devices) {
    if (device.node && device.name == platform.console) {
      writer.string("stdout-path", "/" + node_name(device));
    }
  }
  writer.string("bootargs", start.command_line);
  if (start.initrd) {
    const std::uint64_t first = start.initrd->base.value;
    writer.wide("linux,initrd-start", {first});
    writer.wide("linux,initrd-end", {first + start.initrd->size});
  }
  const std::span seed(start.random_seed);
  if (seed.size() > kAddressSeed) {
    writer.bytes("kaslr-seed", seed.first(kAddressSeed));
    writer.bytes("rng-seed", seed.subspan(kAddressSeed));
  }
  // BARs are placed already; a kernel that placed them anew would spend time on it.
  if (platform.pci) writer.cells("linux,pci-probe-only", {1});
  writer.end();
}

void write_memory(Writer& writer, const Platform& platform, const Start& start) {
  for (const auto& range : start.ram) {
    writer.begin(at("memory", range.base.value));
    writer.string("device_type", "memory");
    writer.wide("reg", {range.base.value, range.size});
    writer.end();
  }
  if (!platform.generation_id_address) return;
  // The driver maps it as a device's registers, which it may not do with the kernel's own memory.
  writer.begin("reserved-memory");
  writer.cells("#address-cells", {2});
  writer.cells("#size-cells", {2});
  writer.empty("ranges");
  writer.begin(at("generation-id", *platform.generation_id_address));
  writer.wide("reg", {*platform.generation_id_address, kPage});
  writer.empty("no-map");
  writer.end();
  writer.end();
}

void write_processors(Writer& writer, const Platform& platform) {
  writer.begin("cpus");
  writer.cells("#address-cells", {2});
  writer.cells("#size-cells", {0});
  for (const auto& cpu : platform.cpus) {
    writer.begin(at("cpu", cpu.affinity));
    writer.string("device_type", "cpu");
    writer.string("compatible", "arm,armv8");
    writer.wide("reg", {cpu.affinity});
    if (platform.psci) writer.string("enable-method", "psci");
    writer.end();
  }
  writer.end();
  if (platform.psci) {
    writer.begin("psci");
    writer.strings("compatible", {"arm,psci-1.0", "arm,psci-0.2"});
    writer.string("method", "hvc");
    writer.end();
  }
  if (platform.timer) {
    const auto& timer = *platform.timer;
    writer.begin("timer");
    writer.string("compatible", "arm,armv8-timer");
    writer.cells("interrupts", {kPrivate, timer.secure, kLevelHigh, kPrivate, timer.physical,
                                kLevelHigh, kPrivate, timer.virtual_count, kLevelHigh, kPrivate,
                                timer.hypervisor, kLevelHigh});
    writer.empty("always-on");
    writer.end();
  }
}

void write_interrupt_controller(Writer& writer, const Platform::Gic& gic) {
  writer.begin(at("interrupt-controller", gic.distributor.base));
  writer.string("compatible", "arm,gic-v3");
  writer.cells("#interrupt-cells", {3});
  writer.empty("interrupt-controller");
  writer.cells("#address-cells", {2});
  writer.cells("#size-cells", {2});
  writer.empty("ranges");
  writer.wide("reg", {gic.distributor.base, gic.distributor.size, gic.redistributors.base,
                      gic.redistributors.size});
  writer.cells("phandle", {kGic});
  writer.begin(at("msi-controller", gic.its.base));
  writer.string("compatible", "arm,gic-v3-its");
  writer.empty("msi-controller");
  writer.cells("#msi-cells", {1});
  writer.wide("reg", {gic.its.base, gic.its.size});
  writer.cells("phandle", {kIts});
  writer.end();
  writer.end();
}

void write_clock(Writer& writer) {
  writer.begin("clock");
  writer.string("compatible", "fixed-clock");
  writer.cells("#clock-cells", {0});
  writer.cells("clock-frequency", {kClockHz});
  writer.cells("phandle", {kClock});
  writer.end();
}

void write_device(Writer& writer, const PlatformDevice& device) {
  const auto* range = resource<PlatformDevice::Mmio32>(device);
  writer.begin(node_name(device));
  writer.strings("compatible", device.node->compatible);
  writer.wide("reg", {range->base, range->size});
  if (const auto* line = resource<PlatformDevice::Interrupt>(device)) {
    writer.cells("interrupts", specifier(*line));
  }
  if (!device.node->clocks.empty()) {
    const std::vector<std::uint32_t> clocks(device.node->clocks.size(), kClock);
    writer.cells("clocks", clocks);
    writer.strings("clock-names", device.node->clocks);
  }
  writer.end();
}

void write_pci(Writer& writer, const Platform::PciHost& pci) {
  constexpr std::uint32_t kRequesters = 0x10000;  // of a segment
  const auto high = [](std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); };
  const auto low = [](std::uint64_t value) { return static_cast<std::uint32_t>(value); };
  writer.begin(at("pcie", pci.ecam_base));
  writer.string("compatible", "pci-host-ecam-generic");
  writer.string("device_type", "pci");
  writer.cells("#address-cells", {3});
  writer.cells("#size-cells", {2});
  writer.cells("bus-range", {0, pci.last_bus});
  writer.wide("reg", {pci.ecam_base, (std::uint64_t{pci.last_bus} + 1) * kEcamBusSize});
  std::vector<std::uint32_t> ranges;
  const auto add = [&](std::uint32_t space, const Platform::Window& window) {
    if (window.size == 0) return;
    for (const auto cell : {space, high(window.base), low(window.base), high(window.base),
                            low(window.base), high(window.size), low(window.size)}) {
      ranges.push_back(cell);
    }
  };
  add(kMemory32, pci.mmio32);
  add(kMemory64, pci.mmio64);
  writer.cells("ranges", ranges);
  writer.cells("msi-map", {0, kIts, 0, kRequesters});
  writer.empty("dma-coherent");
  writer.end();
}

void write_events(Writer& writer, const Platform& platform) {
  if (platform.power_key) {
    writer.begin("gpio-keys");
    writer.string("compatible", "gpio-keys");
    writer.begin("power");
    writer.string("label", "Power Button");
    writer.cells("linux,code", {kPowerKeyCode});
    writer.cells("interrupts", specifier(*platform.power_key));
    writer.end();
    writer.end();
  }
  if (platform.generation_id_address && platform.generation_changed) {
    writer.begin(at("generation-id", *platform.generation_id_address));
    writer.string("compatible", "microsoft,vmgenid");
    writer.wide("reg", {*platform.generation_id_address, kPage});
    writer.cells("interrupts", specifier(*platform.generation_changed));
    writer.end();
  }
}

}  // namespace

std::size_t tree_size(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(fdt_header) || fdt_magic(bytes.data()) != FDT_MAGIC) return 0;
  return std::min<std::size_t>(fdt_totalsize(bytes.data()), bytes.size());
}

Result<std::vector<std::byte>> build_tree(const Platform& platform, const Start& start) {
  TRY(check(platform, start));
  Writer writer(kMaxTreeSize);
  writer.begin("");
  writer.cells("#address-cells", {2});
  writer.cells("#size-cells", {2});
  writer.string("compatible", "linux,dummy-virt");
  writer.string("model", "vmm");
  writer.cells("interrupt-parent", {kGic});
  write_chosen(writer, platform, start);
  write_memory(writer, platform, start);
  write_processors(writer, platform);
  write_interrupt_controller(writer, *platform.gic);
  write_clock(writer);
  for (const auto& device : platform.devices) {
    if (device.node) write_device(writer, device);
  }
  if (platform.pci) write_pci(writer, *platform.pci);
  write_events(writer, platform);
  writer.end();
  return std::move(writer).finish();
}

}  // namespace vmm::fdt
