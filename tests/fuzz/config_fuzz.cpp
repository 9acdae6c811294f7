// Any text as a configuration file, and as the words of --disk, --net, --vsock and --serial.
#include <cstdlib>
#include <string>

#include "src/base/text.h"
#include "src/cli/config/given_machine.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  const std::string text(reinterpret_cast<const char*>(data), size);
  (void)parse_size(text);
  (void)disk::parse_disk_config(text);
  (void)virtio::parse_net_config(text);
  (void)virtio::parse_vsock_config(text);
  (void)chardev::parse_serial_spec(text);
  config::GivenMachine given;
  if (!config::take_text(given, text, "fuzz")) return 0;
  const auto machine = config::to_machine(given, config::Kernel::optional);
  if (!machine) return 0;
  // What is printed of a machine is read again, as the same machine and the same text.
  const auto printed = config::to_json_text(*machine);
  config::GivenMachine again;
  if (!printed || !config::take_text(again, *printed, "printed")) std::abort();
  const auto same = config::to_machine(again, config::Kernel::optional);
  if (!same || *same != *machine || *config::to_json_text(*same) != *printed) std::abort();
  return 0;
}
