// Any text as a configuration file, and as the words of --disk, --net, --vsock and --serial.
#include <cstdlib>
#include <string>

#include "src/base/text.h"
#include "src/cli/config/disk_option.h"
#include "src/cli/config/machine_options.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmm;
  const std::string text(reinterpret_cast<const char*>(data), size);
  (void)parse_size(text);
  (void)config::parse_disk_option(text);
  (void)virtio::parse_net_config(text);
  (void)virtio::parse_vsock_config(text);
  (void)chardev::parse_serial_spec(text);
  const auto options = config::parse_config_text(text, "fuzz");
  if (!options) return 0;
  (void)config::to_config(*options);
  // What is printed is read again as the same.
  const auto printed = config::to_json_text(*options);
  const auto again = config::parse_config_text(printed, "printed");
  if (!again || config::to_json_text(*again) != printed) std::abort();
  return 0;
}
