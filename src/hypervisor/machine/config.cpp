#include "src/hypervisor/machine/config.h"

#include "arch/boot.h"
#include "src/hypervisor/machine/device_kinds.h"
#include "src/spec/items.h"

namespace vmm {

void make_up_addresses(MachineConfig& machine) {
  for (const auto& kind : device_kinds()) {
    if (kind.make_up != nullptr) kind.make_up(machine);
  }
}

spec::Fields fields_of(MachineConfig& machine) {
  static const auto kernel_help = fmt::format("kernel to boot: {}", arch::kKernelKinds);
  spec::Fields fields("machine");
  fields.add(spec::host({"kernel", "PATH", kernel_help}), spec::text(machine.kernel));
  fields.add(spec::host({"initrd", "PATH", "initial RAM disk"}), spec::text(machine.initrd));
  fields.add({"append", "WORDS", "added to the kernel's command line; a later word wins"},
             spec::text(machine.append));
  fields.add({"mem", "SIZE", "memory, 64M or more (512M)"}, spec::size(machine.memory));
  fields.add({"cpus", "N", "vCPUs, each on its own thread (1)"},
             spec::number(machine.cpus, 1, 4096));
  for (const auto& kind : device_kinds()) kind.declare(machine, fields);
  fields.add(
      spec::host({"serial", "stdio|none|off|pty|file:PATH[,max=SIZE]|socket:PATH",
                  "the console (stdio); a file is appended to, and at 16M or max=SIZE it becomes "
                  "PATH.1 and a new one begins (max=off: never)"}),
      spec::component(machine.serial, chardev::parse_serial_spec));
  fields.add({"name", "TEXT", "shown in its status"}, spec::text(machine.name));
  fields.add({"reboot", "", "end when the guest resets"}, spec::toggle(machine.reboot));
  fields.add(spec::host({"control", "PATH", "socket for `vmm ctl`"}), spec::text(machine.control));
  return fields;
}

}  // namespace vmm
