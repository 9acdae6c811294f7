// The ACPI tables of a machine, written from its description: hardware-reduced ACPI (6.5, 4.1), no
// legacy PIC, no timers of a PC, PCI Express by MCFG, events by a generic event device.
//
//   const auto tables = TRY(acpi::build_tables(platform, GuestAddress{0xe0000}));
//   TRY(memory.write_bytes(tables.base, tables.bytes));
//   boot.rsdp = tables.rsdp;
//
// The same description gives the same bytes, always.
#pragma once

#include <cstddef>
#include <vector>

#include "firmware/platform.h"
#include "src/base/result.h"
#include "src/hypervisor/memory/guest_address.h"

namespace vmm::acpi {

struct Tables {
  GuestAddress base;
  GuestAddress rsdp;
  std::vector<std::byte> bytes;  // to be written at `base`, and reserved in the memory map
};

// `base` is a multiple of 64. Refuses descriptions that no table can say: a name that is not of
// four characters, two devices of one name, two processors of one APIC id, ranges that wrap.
Result<Tables> build_tables(const Platform& platform, GuestAddress base);

}  // namespace vmm::acpi
