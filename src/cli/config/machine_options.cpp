#include "src/cli/config/machine_options.h"

#include <nlohmann/json.hpp>
#include <unistd.h>

#include <array>

#include "arch/address_plan.h"
#include "src/base/text.h"
#include "src/base/unique_fd.h"
#include "src/cli/config/disk_option.h"
#include "src/cli/config/option_text.h"

namespace vmm::config {
namespace {

using nlohmann::json;

// A key of the file whose value is a text, a number or true and false.
struct TextKey {
  std::string_view name;
  std::optional<std::string> MachineOptions::* member;
};
struct FlagKey {
  std::string_view name;
  std::optional<bool> MachineOptions::* member;
};
// A key whose value is a list of devices.
struct ListKey {
  std::string_view name;
  std::string_view positional;
  std::vector<std::string> MachineOptions::* member;
};
constexpr std::array<TextKey, 9> kTexts = {{{"name", &MachineOptions::name},
                                            {"kernel", &MachineOptions::kernel},
                                            {"initrd", &MachineOptions::initrd},
                                            {"append", &MachineOptions::append},
                                            {"mem", &MachineOptions::memory},
                                            {"cpus", &MachineOptions::cpus},
                                            {"vsock", &MachineOptions::vsock},
                                            {"serial", &MachineOptions::serial},
                                            {"control", &MachineOptions::control}}};
constexpr std::array<FlagKey, 3> kFlags = {{{"balloon", &MachineOptions::balloon},
                                            {"rng", &MachineOptions::rng},
                                            {"reboot", &MachineOptions::reboot}}};
constexpr std::array<ListKey, 2> kLists = {
    {{"disk", "path", &MachineOptions::disks}, {"net", "", &MachineOptions::nets}}};

Result<void> read_key(MachineOptions& options, const std::string& key, const json& value,
                      const std::string& what) {
  for (const auto& text : kTexts) {
    if (text.name != key) continue;
    if (value.is_string()) {
      options.*text.member = value.get<std::string>();
    } else if (value.is_number_unsigned()) {
      options.*text.member = value.dump();
    } else {
      return fail("{}: '{}' is to be a text or a whole number, not {}", what, key, value.dump());
    }
    return {};
  }
  for (const auto& flag : kFlags) {
    if (flag.name != key) continue;
    if (!value.is_boolean()) {
      return fail("{}: '{}' is true or false, not {}", what, key, value.dump());
    }
    options.*flag.member = value.get<bool>();
    return {};
  }
  for (const auto& list : kLists) {
    if (list.name != key) continue;
    const std::string name = fmt::format("{}: {}", what, key);
    for (const auto& element : value.is_array() ? value : json::array({value})) {
      (options.*list.member).push_back(TRY(to_text(element, list.positional, name)));
    }
    return {};
  }
  std::vector<std::string_view> names;
  for (const auto& text : kTexts) names.push_back(text.name);
  for (const auto& flag : kFlags) names.push_back(flag.name);
  for (const auto& list : kLists) names.push_back(list.name);
  return fail("{}: unknown key '{}'{}", what, key, did_you_mean(key, names));
}

Result<std::uint64_t> parse_memory(const std::string& text) {
  auto bytes = parse_size(text);
  if (!bytes) return fail("--mem: {}", bytes.error().message());
  if (*bytes < arch::kMinMemory) {
    return fail("--mem: '{}' is too little: at least {} is needed", text,
                format_size(arch::kMinMemory));
  }
  if (*bytes % (1u << 20) != 0) return fail("--mem: '{}' is not a multiple of 1M", text);
  const auto host = static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                    static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  if (*bytes > host) {
    return fail("--mem: '{}' is more than this host's memory of {}M", text, host >> 20);
  }
  return *bytes;
}

}  // namespace

void MachineOptions::override_with(const MachineOptions& other) {
  for (const auto& text : kTexts) {
    if (other.*text.member) this->*text.member = other.*text.member;
  }
  for (const auto& flag : kFlags) {
    if (other.*flag.member) this->*flag.member = other.*flag.member;
  }
  for (const auto& list : kLists) {
    auto& mine = this->*list.member;
    const auto& more = other.*list.member;
    mine.insert(mine.end(), more.begin(), more.end());
  }
}

Result<MachineConfig> to_config(const MachineOptions& options) {
  MachineConfig config;
  config.name = options.name.value_or("");
  if (!options.kernel || options.kernel->empty()) {
    return fail("a kernel is missing: --kernel PATH, a bzImage or a vmlinux");
  }
  config.kernel = *options.kernel;
  config.initrd = options.initrd.value_or("");
  config.append = options.append.value_or("");
  if (options.memory) config.memory = TRY(parse_memory(*options.memory));
  if (options.cpus) {
    config.cpus = static_cast<unsigned>(TRY(parse_number(*options.cpus, 1, 4096, "--cpus:")));
  }
  for (const auto& text : options.disks) config.disks.push_back(TRY(parse_disk_option(text)));
  for (const auto& text : options.nets) {
    auto net = TRY(virtio::parse_net_config(text));
    if (net.kind != virtio::NetKind::none) config.nets.push_back(std::move(net));
  }
  if (options.vsock) config.vsock = TRY(virtio::parse_vsock_config(*options.vsock));
  config.balloon = options.balloon.value_or(false);
  config.rng = options.rng.value_or(false);
  if (options.serial) config.serial = TRY(chardev::parse_serial_spec(*options.serial));
  config.control = options.control.value_or("");
  config.reboot = options.reboot.value_or(true);
  return config;
}

Result<MachineOptions> read_config_file(const std::string& path) {
  return parse_config_text(TRY(read_text_file(path)), fmt::format("configuration '{}'", path));
}

Result<MachineOptions> parse_config_text(const std::string& text, const std::string& what) {
  json root;
  try {
    root = json::parse(text, nullptr, true, /*ignore_comments=*/true);
  } catch (const json::exception& error) {
    return fail("{} is no JSON: {}", what, error.what());
  }
  if (!root.is_object()) return fail("{} is to be a JSON object", what);
  MachineOptions options;
  for (const auto& [key, value] : root.items()) TRY(read_key(options, key, value, what));
  return options;
}

std::string to_json_text(const MachineOptions& options) {
  json root = json::object();
  for (const auto& text : kTexts) {
    if (const auto& value = options.*text.member) root[std::string(text.name)] = *value;
  }
  for (const auto& flag : kFlags) {
    if (const auto& value = options.*flag.member) root[std::string(flag.name)] = *value;
  }
  for (const auto& list : kLists) {
    for (const auto& text : options.*list.member) {
      root[std::string(list.name)].push_back(to_object(text, list.positional));
    }
  }
  return root.dump(2);
}

}  // namespace vmm::config
