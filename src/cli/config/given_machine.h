// GivenMachine: what a person said of a machine, in a configuration file and as options, typed.
// Both are read one way, through the declarations of the components; what is not said has its
// default.
//
//   GivenMachine given;
//   TRY(take_file(given, "vm.json"));                        // then options override it
//   TRY(take_option(given, "mem", "2G"));                    // lists add up
//   const MachineConfig machine = TRY(to_machine(given));    // checked as a whole
//   fmt::print("{}\n", TRY(to_json_text(machine)));          // --print-config; take_text() reads
//   it
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/machine/config.h"
#include "src/hypervisor/snapshot/manifest.h"

namespace vmm::config {

// Of the configuration as JSON.
inline constexpr std::uint64_t kConfigVersion = 1;

struct GivenMachine {
  MachineConfig machine;
  std::vector<std::string> keys;  // that were said

  bool has(std::string_view key) const;
};

// Whether a machine without one is whole: a restored one boots nothing before its guest resets.
enum class Kernel : std::uint8_t { required, optional };

Result<void> take_file(GivenMachine& given, const std::string& path);
// `what` names the text in errors.
Result<void> take_text(GivenMachine& given, const std::string& text, const std::string& what);
// Those of components, each of which a copy may have another attachment for.
std::vector<spec::Key> component_keys();
// Of the option --KEY WORD.
Result<void> take_option(GivenMachine& given, std::string_view key, std::string_view word);

// Files are not opened here: their names are compared.
Result<MachineConfig> to_machine(const GivenMachine& given, Kernel kernel = Kernel::required);

// What has its default is not in it.
Result<std::string> to_json_text(const MachineConfig& machine);

// For a manifest: what the guest sees, and apart from it what of the host it is connected to, by
// absolute paths.
Result<snapshot::MachineTexts> to_manifest_texts(MachineConfig machine);
// What is said of a component in the words of its option, for the machine's control socket: JSON,
// with absolute paths.
Result<std::string> to_attachment(std::string_view component, std::string_view words);

struct SavedMachine {
  MachineConfig machine;          // as the guest sees it, connected to nothing
  MachineConfig attached;         // the same with what the manifest notes
  std::vector<std::string> keys;  // that are said
};
// `what` names the texts in errors.
Result<SavedMachine> from_manifest_texts(const snapshot::MachineTexts& texts,
                                         const std::string& what);

}  // namespace vmm::config
