// How the blob is laid out:
//
//   base + 0     RSDP, the only table that is found by its address
//   base + 64    DSDT, FADT, MADT, MCFG, XSDT, each at a multiple of 16
//
// 1. the description is checked, 2. the tables are written, 3. they are placed, so that the FADT
// and the XSDT can point at them.
#include "firmware/acpi/tables.h"

#include <algorithm>
#include <set>
#include <string>

#include "firmware/acpi/aml.h"
#include "firmware/acpi/table.h"

namespace vmm::acpi {
namespace {

constexpr std::size_t kRsdpSize = 36;
constexpr std::size_t kFirstTable = 64;
constexpr std::size_t kTableAlignment = 16;
constexpr std::size_t kMaxCpus = 4096;
constexpr std::size_t kMaxDevices = 256;
constexpr std::size_t kMaxResources = 32;  // a device

void align(std::vector<std::byte>& bytes) {
  bytes.resize((bytes.size() + kTableAlignment - 1) & ~(kTableAlignment - 1));
}

// --- 1. Checks ---

Result<void> check_resource(const PlatformDevice& device, const PlatformDevice::IoPorts& ports) {
  if (ports.size == 0 || std::uint32_t{ports.base} + ports.size > 0x10000) {
    return fail("device '{}': ports {:#x}+{:#x} are not within 0..0xffff", device.name, ports.base,
                ports.size);
  }
  return {};
}

Result<void> check_resource(const PlatformDevice& device, const PlatformDevice::Mmio32& range) {
  if (range.size == 0 || std::uint64_t{range.base} + range.size > 1ull << 32) {
    return fail("device '{}': memory {:#x}+{:#x} is not within the first 4 GiB", device.name,
                range.base, range.size);
  }
  return {};
}

Result<void> check_resource(const PlatformDevice&, const PlatformDevice::Interrupt&) { return {}; }

Result<void> check_hardware_id(const PlatformDevice& device, std::string_view id) {
  const bool plain = std::ranges::all_of(id, [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
  if (id.empty() || id.size() > 16 || !plain) {
    return fail("device '{}': the hardware id '{}' is not of 1 to 16 letters and digits",
                device.name, id);
  }
  return {};
}

Result<void> check_devices(const Platform& platform) {
  if (platform.devices.size() > kMaxDevices) {
    return fail("{} platform devices are more than {}", platform.devices.size(), kMaxDevices);
  }
  std::set<std::string_view> names(reserved_names().begin(), reserved_names().end());
  for (const auto& device : platform.devices) {
    if (!aml::is_name_segment(device.name)) {
      return fail("the device name '{}' is not of four characters A-Z, 0-9 or _, no digit first",
                  device.name);
    }
    if (!names.insert(device.name).second) {
      return fail("the device name '{}' is taken twice", device.name);
    }
    TRY(check_hardware_id(device, device.acpi_hid));
    if (device.acpi_cid) TRY(check_hardware_id(device, *device.acpi_cid));
    if (device.resources.size() > kMaxResources) {
      return fail("device '{}': {} resources are more than {}", device.name,
                  device.resources.size(), kMaxResources);
    }
    for (const auto& resource : device.resources) {
      TRY(std::visit([&](const auto& r) { return check_resource(device, r); }, resource));
    }
  }
  return {};
}

Result<void> check_cpus(const Platform& platform) {
  if (platform.cpus.empty() || platform.cpus.size() > kMaxCpus) {
    return fail("{} processors are not between 1 and {}", platform.cpus.size(), kMaxCpus);
  }
  std::set<std::uint32_t> ids;
  for (const auto& cpu : platform.cpus) {
    if (!ids.insert(cpu.apic_id).second) return fail("the APIC id {} is taken twice", cpu.apic_id);
  }
  return {};
}

Result<void> check_range(std::string_view what, std::uint64_t base, std::uint64_t size,
                         std::uint64_t end) {
  if (base > end || size > end - base) {
    return fail("the {} {:#x}+{:#x} does not end below {:#x}", what, base, size, end);
  }
  return {};
}

Result<void> check_pci(const Platform& platform) {
  if (!platform.pci) return {};
  constexpr std::uint64_t kHighest = 1ull << 52;  // physical addresses have 52 bits
  const Platform::PciHost& pci = *platform.pci;
  if (pci.ecam_base % kEcamBusSize != 0) {
    return fail("the PCI configuration space at {:#x} is not aligned to 1 MiB", pci.ecam_base);
  }
  TRY(check_range("PCI configuration space", pci.ecam_base,
                  (std::uint64_t{pci.last_bus} + 1) * kEcamBusSize, kHighest));
  TRY(check_range("PCI window", pci.mmio32.base, pci.mmio32.size, kBelow4GiB));
  TRY(check_range("PCI window", pci.mmio64.base, pci.mmio64.size, kHighest));
  return {};
}

// --- 2. The tables ---

// 5.2.9. Version 6.5 has the FADT at revision 6, minor 5; iasl of Debian 12 knows 6.3.
std::vector<std::byte> build_fadt(const Platform& platform, GuestAddress dsdt) {
  constexpr std::uint16_t kNoVga = 1 << 2;
  constexpr std::uint16_t kNoAspm = 1 << 4;  // virtual links have no power to save
  constexpr std::uint16_t kNoCmosRtc = 1 << 5;
  constexpr std::uint32_t kWbinvd = 1 << 0;
  constexpr std::uint32_t kC1 = 1 << 2;
  constexpr std::uint32_t kNoFixedPowerButton = 1 << 4;
  constexpr std::uint32_t kNoFixedSleepButton = 1 << 5;
  constexpr std::uint32_t kResetRegister = 1 << 10;
  constexpr std::uint32_t kHardwareReduced = 1 << 20;
  constexpr std::uint16_t kNoC2 = 101;  // latencies that mean "not supported"
  constexpr std::uint16_t kNoC3 = 1001;

  const bool has_rtc = std::ranges::any_of(platform.devices, [](const PlatformDevice& device) {
    return device.acpi_hid.starts_with("PNP0B0");
  });
  // Neither "legacy devices" nor "8042": nothing is to be probed that no table names.
  const auto boot_flags = static_cast<std::uint16_t>(kNoVga | kNoAspm | (has_rtc ? 0 : kNoCmosRtc));
  const std::uint32_t flags = kWbinvd | kC1 | kNoFixedPowerButton | kNoFixedSleepButton |
                              (platform.reset ? kResetRegister : 0) | kHardwareReduced;

  Table fadt("FACP", 6);
  fadt.add_zeroes(96 - kTableHeaderSize);  // 32-bit addresses, and hardware that there is not
  fadt.add(kNoC2);
  fadt.add(kNoC3);
  fadt.add_zeroes(109 - 100);
  fadt.add(boot_flags);
  fadt.add_zeroes(1);
  fadt.add(flags);
  if (platform.reset) {
    fadt.add(platform.reset->reg);
  } else {
    fadt.add_zeroes(12);
  }
  fadt.add(platform.reset ? platform.reset->value : std::uint8_t{0});
  fadt.add_zeroes(2);          // ARM boot flags
  fadt.add(std::uint8_t{3});   // minor version
  fadt.add_zeroes(8);          // no FACS: hardware-reduced machines need none
  fadt.add(dsdt.value);        // the 32-bit field stays 0: they must not differ
  fadt.add_zeroes(244 - 148);  // registers that there are not
  if (platform.sleep) {
    fadt.add(platform.sleep->control);
    fadt.add(platform.sleep->status);
  } else {
    fadt.add_zeroes(24);
  }
  fadt.add(std::string_view("VMMVMMVM"));  // hypervisor vendor identity
  return std::move(fadt).finish();
}

// 5.2.12. Flags stay 0: there is no 8259 to be disabled.
std::vector<std::byte> build_madt(const Platform& platform) {
  constexpr std::uint32_t kEnabled = 1;
  constexpr std::uint32_t kFirstX2Apic = 255;  // of a local APIC, 255 would mean "all"
  Table madt("APIC", 5);
  madt.add(platform.local_apic_address);
  madt.add(std::uint32_t{0});
  for (const auto& cpu : platform.cpus) {
    if (cpu.apic_id < kFirstX2Apic) {  // 5.2.12.2; the processor's unique id is its APIC id
      madt.add(std::uint8_t{0});
      madt.add(std::uint8_t{8});
      madt.add(static_cast<std::uint8_t>(cpu.apic_id));
      madt.add(static_cast<std::uint8_t>(cpu.apic_id));
      madt.add(kEnabled);
    } else {  // 5.2.12.12
      madt.add(std::uint8_t{9});
      madt.add(std::uint8_t{16});
      madt.add(std::uint16_t{0});
      madt.add(cpu.apic_id);
      madt.add(kEnabled);
      madt.add(cpu.apic_id);
    }
  }
  madt.add(std::uint8_t{1});  // 5.2.12.3
  madt.add(std::uint8_t{12});
  madt.add(platform.io_apic.id);
  madt.add(std::uint8_t{0});
  madt.add(platform.io_apic.address);
  madt.add(platform.io_apic.gsi_base);
  return std::move(madt).finish();
}

// PCI Firmware Specification 3.3, 4.1.2.
std::vector<std::byte> build_mcfg(const Platform::PciHost& pci) {
  Table mcfg("MCFG", 1);
  mcfg.add_zeroes(8);
  mcfg.add(pci.ecam_base);
  mcfg.add(std::uint16_t{0});  // segment
  mcfg.add(std::uint8_t{0});   // first bus
  mcfg.add(pci.last_bus);
  mcfg.add_zeroes(4);
  return std::move(mcfg).finish();
}

std::vector<std::byte> build_xsdt(std::span<const GuestAddress> tables) {
  Table xsdt("XSDT", 1);
  for (GuestAddress table : tables) xsdt.add(table.value);
  return std::move(xsdt).finish();
}

// 5.2.5.3
void write_rsdp(std::span<std::byte> bytes, GuestAddress xsdt) {
  std::memcpy(bytes.data(), "RSD PTR ", 8);
  std::memcpy(bytes.data() + 9, kOemId.data(), kOemId.size());
  put_le(bytes, 15, std::uint8_t{2});  // revision; the 32-bit RSDT address stays 0
  put_le(bytes, 20, static_cast<std::uint32_t>(kRsdpSize));
  put_le(bytes, 24, xsdt.value);
  put_le(bytes, 8, checksum(bytes.first(20)));
  put_le(bytes, 32, checksum(bytes.first(kRsdpSize)));
}

}  // namespace

std::uint8_t checksum(std::span<const std::byte> bytes) {
  std::uint8_t sum = 0;
  for (std::byte b : bytes) sum = static_cast<std::uint8_t>(sum + std::to_integer<unsigned>(b));
  return static_cast<std::uint8_t>(0u - sum);
}

Table::Table(std::string_view signature, std::uint8_t revision) {
  add(signature.substr(0, 4));
  add(std::uint32_t{0});  // length
  add(revision);
  add(std::uint8_t{0});  // checksum
  add(kOemId);
  add(kOemTableId);
  add(std::uint32_t{1});  // OEM revision
  add(kCompilerId);
  add(std::uint32_t{1});  // its revision
}

void Table::add(std::string_view text) { add(std::as_bytes(std::span(text))); }

void Table::add(std::span<const std::byte> bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

void Table::add(const PlatformRegister& reg) {
  add(static_cast<std::uint8_t>(reg.space));
  add(std::uint8_t{8});  // bits
  add(std::uint8_t{0});
  add(std::uint8_t{1});  // accessed as a byte
  add(reg.address);
}

std::vector<std::byte> Table::finish() && {
  put_le(bytes_, 4, static_cast<std::uint32_t>(bytes_.size()));
  put_le(bytes_, 9, checksum(bytes_));
  return std::move(bytes_);
}

Result<Tables> build_tables(const Platform& platform, GuestAddress base) {
  if (base.value % kFirstTable != 0) {
    return fail("the ACPI tables at {:#x} are not aligned to {}", base.value, kFirstTable);
  }
  TRY(check_cpus(platform));
  TRY(check_pci(platform));
  TRY(check_devices(platform));

  Tables tables{.base = base, .rsdp = base, .bytes = std::vector<std::byte>(kFirstTable)};
  const auto place = [&](std::span<const std::byte> table) {
    align(tables.bytes);
    const GuestAddress address = base + tables.bytes.size();
    tables.bytes.insert(tables.bytes.end(), table.begin(), table.end());
    return address;
  };
  const GuestAddress dsdt = place(build_dsdt(platform));
  std::vector<GuestAddress> roots = {place(build_fadt(platform, dsdt)),
                                     place(build_madt(platform))};
  if (platform.pci) roots.push_back(place(build_mcfg(*platform.pci)));
  const GuestAddress xsdt = place(build_xsdt(roots));
  write_rsdp(std::span(tables.bytes).first(kFirstTable), xsdt);
  return tables;
}

}  // namespace vmm::acpi
