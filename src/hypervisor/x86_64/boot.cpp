#include "arch/boot.h"

#include <sys/random.h>

#include <array>

#include "arch/address_plan.h"
#include "firmware/acpi/tables.h"
#include "firmware/loader/boot_params.h"
#include "firmware/loader/pvh_start_info.h"
#include "src/base/log.h"

namespace vmm::arch {
Result<void> write_generation_id(const GuestMemory& memory) {
  std::array<std::byte, 16> id;
  if (::getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) {
    return fail_errno("cannot make a VM generation ID");
  }
  return memory.write(kGenerationId, id);
}

Result<Images> load_images(const std::string& kernel, const std::string& initrd,
                           const GuestMemory& memory) {
  Images images{
      .kernel = TRY(loader::load_kernel(kernel, memory, loader::PayloadCache::of_user("kernels"))),
      .initrd = {}};
  // check: unlimited-log allowed, once a start
  if (!images.kernel.remark.empty()) log::info("{}", images.kernel.remark);
  if (!initrd.empty()) {
    images.initrd = TRY(loader::load_initrd(initrd, memory, images.kernel.end,
                                            GuestAddress{images.kernel.initrd_address_max},
                                            loader::PayloadCache::of_user("initrds")));
  }
  return images;
}

Result<EntryPoint> prepare_entry(const Images& images, const std::string& command_line,
                                 const Platform& platform, const GuestMemory& memory) {
  const auto& kernel = images.kernel;
  loader::LinuxBoot boot;
  for (const auto& region : memory.regions()) boot.ram.push_back(region.range);
  boot.command_line = command_line;
  boot.command_line_max = kernel.command_line_max;
  boot.setup_header = kernel.setup_header;
  boot.initrd = images.initrd;

  const auto tables = TRY(acpi::build_tables(platform, kAcpiTables));
  TRY(memory.write_bytes(tables.base, tables.bytes));
  boot.rsdp = tables.rsdp;
  TRY(write_generation_id(memory));
  boot.reserved = {
      {kGenerationId, kLowMemoryEnd.value - kGenerationId.value, loader::MemoryType::reserved},
      {kEcam.base, kEcam.size, loader::MemoryType::reserved}};

  const bool pvh = kernel.entry_kind == loader::EntryKind::pvh;
  log::debug("the kernel is entered {} at {:#x}", pvh ? "by PVH" : "in 64-bit mode",
             kernel.entry.value);
  const loader::BootLayout layout{.info = pvh ? kPvhStartInfo : kBootParams,
                                  .command_line = kCommandLine};
  if (pvh) {
    TRY(loader::write_pvh_start_info(boot, layout, memory));
  } else {
    TRY(loader::write_boot_params(boot, layout, memory));
  }
  return EntryPoint{pvh ? Entry::pvh : Entry::linux64, kernel.entry};
}

Result<std::vector<std::byte>> firmware_tables(const GuestMemory& memory) {
  // The root table, which the RSDP points to, is the last one (firmware/acpi/tables.cpp).
  constexpr std::uint64_t kRootAddress = 24;  // ACPI 6.5, 5.2.5.3
  constexpr std::uint64_t kLength = 4;        // 5.2.6
  const auto root = TRY(memory.read<std::uint64_t>(kAcpiTables + kRootAddress));
  const auto length = TRY(memory.read<std::uint32_t>(GuestAddress{root} + kLength));
  const auto bytes = TRY(memory.slice(kAcpiTables, root - kAcpiTables.value + length));
  return std::vector<std::byte>(bytes.begin(), bytes.end());
}

std::string default_command_line(bool serial) {
  // panic=-1: reboot at once, so that a dead guest ends. tsc=reliable: no watchdog over a clock
  // that KVM keeps. noreplace-smp: a kernel with one processor does not take its eight thousand
  // lock prefixes out one by one, each with a change of page tables; it was a tenth of the boot.
  // reboot=acpi: where ACPI's hardware is reduced, a kernel with support for EFI asks an EFI that
  // is not there for its reset, then a BIOS, whose place is empty, and hangs. The rest spares waits
  // and probes of devices that are not there.
  std::string line =
      "quiet panic=-1 reboot=acpi tsc=reliable no_timer_check noreplace-smp cryptomgr.notests "
      "random.trust_cpu=on pci=noearly i8042.noaux i8042.nokbd";
  line += serial ? " 8250.nr_uarts=1 console=ttyS0" : " 8250.nr_uarts=0";
  return line;
}

}  // namespace vmm::arch
