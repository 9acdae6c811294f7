// MachineOptions: what was said on the command line and in the configuration file, as texts; the
// one step between both and the typed MachineConfig.
//
//   MachineOptions options = TRY(read_config_file(path));    // then options override it
//   const MachineConfig config = TRY(to_config(options));
//   fmt::print("{}\n", to_json_text(options));               // --print-config; reads back as it is
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/machine/config.h"

namespace vmm::config {

struct MachineOptions {
  std::optional<std::string> name, kernel, initrd, append, memory, cpus, vsock, serial, control;
  std::vector<std::string> disks, nets;
  std::optional<bool> balloon, rng, reboot;

  // Takes over what `other` says; its devices come behind.
  void override_with(const MachineOptions& other);
};

// Checks every value; errors name it. Files are not touched here, but for their names.
Result<MachineConfig> to_config(const MachineOptions& options);

Result<MachineOptions> read_config_file(const std::string& path);
// `what` names the text in errors.
Result<MachineOptions> parse_config_text(const std::string& text, const std::string& what);
std::string to_json_text(const MachineOptions& options);

}  // namespace vmm::config
