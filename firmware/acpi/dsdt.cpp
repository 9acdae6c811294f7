// The DSDT: what cannot be probed. One function a device; \_SB holds them all.
#include <array>
#include <string>

#include "firmware/acpi/aml.h"
#include "firmware/acpi/table.h"

namespace vmm::acpi {
namespace {

using namespace aml;  // NOLINT: the terms are the language of this file

constexpr std::array<std::string_view, 6> kReservedNames = {"PCI0", "MBRD", "GED_",
                                                            "PWRB", "VGEN", "_S5_"};

// Notifications (5.6.6): both devices define 0x80 as "it happened".
constexpr std::uint8_t kHappened = 0x80;

Aml hardware_id(std::string_view id) { return is_eisa_id(id) ? eisa_id(id) : aml::string(id); }

aml::Resource describe(const PlatformDevice::IoPorts& ports) {
  return io_ports(ports.base, ports.size);
}
aml::Resource describe(const PlatformDevice::Mmio32& range) {
  return memory32_fixed(range.base, range.size);
}
aml::Resource describe(const PlatformDevice::Interrupt& line) {
  return interrupt(line.gsi,
                   line.trigger == PlatformDevice::Trigger::edge ? Trigger::edge : Trigger::level,
                   line.polarity == PlatformDevice::Polarity::active_high ? Polarity::active_high
                                                                          : Polarity::active_low);
}

Aml plain_device(const PlatformDevice& description) {
  Terms body = {name("_HID", hardware_id(description.acpi_hid))};
  if (description.acpi_cid) body.push_back(name("_CID", hardware_id(*description.acpi_cid)));
  body.push_back(name("_UID", integer(description.uid)));
  body.push_back(name("_STA", integer(0xf)));  // present, enabled, shown, working
  if (!description.resources.empty()) {
    std::vector<aml::Resource> resources;
    for (const auto& resource : description.resources) {
      resources.push_back(std::visit([](const auto& r) { return describe(r); }, resource));
    }
    body.push_back(name("_CRS", resource_template(resources)));
  }
  return device(description.name, body);
}

// No _OSC: what it would hand over (hot plug, AER, PME, LTR of PCI Express) are features of ports,
// of which there are none, and a kernel interprets it at every boot.
Aml pci_host(const Platform::PciHost& pci) {
  std::vector<aml::Resource> windows = {bus_numbers(0, pci.last_bus)};
  if (pci.mmio32.size != 0) {
    windows.push_back(memory32(Usage::producer, static_cast<std::uint32_t>(pci.mmio32.base),
                               static_cast<std::uint32_t>(pci.mmio32.base + pci.mmio32.size - 1)));
  }
  if (pci.mmio64.size != 0) {
    windows.push_back(
        memory64(Usage::producer, pci.mmio64.base, pci.mmio64.base + pci.mmio64.size - 1));
  }
  return device("PCI0", {name("_HID", eisa_id("PNP0A08")), name("_CID", eisa_id("PNP0A03")),
                         name("_SEG", integer(0)), name("_BBN", integer(0)),
                         name("_UID", integer(0)), name("_CRS", resource_template(windows))});
}

// Linux uses the MCFG table only if a motherboard resource covers it (PCI Firmware Specification
// 3.3, 4.1.2).
Aml motherboard(const Platform::PciHost& pci) {
  const std::uint64_t size = (std::uint64_t{pci.last_bus} + 1) * kEcamBusSize;
  const bool low = pci.ecam_base + size <= kBelow4GiB;
  return device(
      "MBRD",
      {name("_HID", eisa_id("PNP0C02")), name("_UID", integer(0)),
       name("_CRS",
            resource_template(
                {low ? memory32_fixed(static_cast<std::uint32_t>(pci.ecam_base),
                                      static_cast<std::uint32_t>(size))
                     : memory64(Usage::consumer, pci.ecam_base, pci.ecam_base + size - 1)}))});
}

Aml event_device(const Platform& platform) {
  const Platform::EventDevice& events = *platform.events;
  const Space space =
      events.status.space == PlatformRegister::Space::io ? Space::io : Space::memory;
  const std::array<FieldUnit, 1> status = {{{"ESTS", 8}}};
  Terms handler = {
      store(path("ESTS"), local(0)),  // once: the read clears
      if_then(bit_and(local(0), integer(events.power_button)), {notify("\\_SB_.PWRB", kHappened)})};
  if (platform.generation_id_address) {
    handler.push_back(if_then(bit_and(local(0), integer(events.generation_changed)),
                              {notify("\\_SB_.VGEN", kHappened)}));
  }
  return device("GED_",
                {name("_HID", aml::string("ACPI0013")), name("_UID", integer(0)),
                 name("_CRS", resource_template({describe(events.interrupt)})),
                 operation_region("EREG", space, events.status.address, 1),
                 field("EREG", Access::byte, status), method("_EVT", 1, Serialized::yes, handler)});
}

Aml power_button() {
  return device("PWRB", {name("_HID", eisa_id("PNP0C0C")), name("_UID", integer(0))});
}

// "Virtual Machine Generation ID" (Microsoft, 2012) asks for the first _CID, which is longer than
// ACPI allows; Hyper-V added the second for that. Linux takes either.
Aml generation_device(std::uint64_t address) {
  return device("VGEN",
                {name("_HID", aml::string("VMMG0001")),
                 name("_CID", package({aml::string("VM_Gen_Counter"), aml::string("VMGENCTR")})),
                 name("_DDN", aml::string("VM_Gen_Counter")), name("_UID", integer(0)),
                 name("ADDR", package({integer(address & 0xffffffff), integer(address >> 32)}))});
}

Aml power_off_state(const Platform::Sleep& sleep) {
  return name("_S5_", package({integer(sleep.power_off_type), integer(0), integer(0), integer(0)}));
}

}  // namespace

std::span<const std::string_view> reserved_names() { return kReservedNames; }

std::vector<std::byte> build_dsdt(const Platform& platform) {
  Terms devices;
  if (platform.pci) {
    devices.push_back(motherboard(*platform.pci));
    devices.push_back(pci_host(*platform.pci));
  }
  for (const auto& description : platform.devices) devices.push_back(plain_device(description));
  if (platform.events) {
    devices.push_back(event_device(platform));
    devices.push_back(power_button());
  }
  if (platform.generation_id_address) {
    devices.push_back(generation_device(*platform.generation_id_address));
  }
  Table dsdt("DSDT", 2);
  dsdt.add(scope("\\_SB_", devices));
  if (platform.sleep) dsdt.add(power_off_state(*platform.sleep));
  return std::move(dsdt).finish();
}

}  // namespace vmm::acpi
