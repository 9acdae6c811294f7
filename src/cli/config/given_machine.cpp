#include "src/cli/config/given_machine.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "arch/address_plan.h"
#include "arch/boot.h"
#include "src/base/text.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/machine/device_kinds.h"
#include "src/hypervisor/machine/slots.h"
#include "src/spec/json.h"

namespace vmm::config {
namespace {

constexpr std::string_view kVersionKey = "version";

Result<void> check_memory(std::uint64_t bytes) {
  const auto text = format_size(bytes);
  if (bytes < arch::kMinMemory) {
    return fail("--mem: '{}' is too little: at least {} is needed", text,
                format_size(arch::kMinMemory));
  }
  if (bytes % (1u << 20) != 0) return fail("--mem: '{}' is not a multiple of 1M", text);
  const auto host = static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                    static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  if (bytes > host) {
    return fail("--mem: '{}' is more than this host's memory of {}M", text, host >> 20);
  }
  return {};
}

// The version stands beside the keys: whoever reads it knows the rest.
Result<void> take_version(spec::Object& object) {
  const auto found = std::ranges::find(object, kVersionKey, &spec::Member::key);
  if (found == object.end()) return {};
  const auto* version = found->value.as<std::uint64_t>();
  if (version == nullptr || *version == 0) {
    return fail("invalid version {}: expected {}", spec::shown(found->value), kConfigVersion);
  }
  if (*version > kConfigVersion) {
    return fail("it has version {}, this program reads version {}", *version, kConfigVersion);
  }
  object.erase(found);
  return {};
}

void make_absolute(std::string& path) {
  std::error_code error;
  const auto absolute = std::filesystem::absolute(path, error).lexically_normal();
  if (!path.empty() && !error) path = absolute.string();
}

// Who reads it works elsewhere.
void make_paths_absolute(MachineConfig& machine) {
  for (auto* path : {&machine.kernel, &machine.initrd, &machine.serial.path, &machine.control}) {
    make_absolute(*path);
  }
  for (const auto& kind : device_kinds()) {
    if (kind.paths == nullptr) continue;
    for (auto* path : kind.paths(machine)) make_absolute(*path);
  }
}

// Without its version, which is known.
Result<spec::Object> keys_in(const std::string& text) {
  const auto root = TRY(spec::parse_value(text));
  const auto* object = root.as<spec::Object>();
  if (object == nullptr) return fail("not a JSON object");
  auto keys = *object;
  TRY(take_version(keys));
  return keys;
}

Result<void> take_json(GivenMachine& given, const std::string& text) {
  return fields_of(given.machine).read(TRY(keys_in(text)), &given.keys);
}

Result<std::string> to_versioned_json(spec::Object object) {
  object.insert(object.begin(), {std::string(kVersionKey), spec::Value(kConfigVersion)});
  return spec::to_json(spec::Value(std::move(object)));
}

Result<SavedMachine> from_texts(const snapshot::MachineTexts& texts) {
  auto keys = TRY(keys_in(texts.config));
  if (!texts.attachments.empty()) keys = spec::merged(keys, TRY(keys_in(texts.attachments)));
  GivenMachine given;
  TRY(fields_of(given.machine).read(keys, &given.keys));
  SavedMachine saved;
  saved.attached = TRY(to_machine(given, Kernel::optional));
  saved.keys = std::move(given.keys);
  saved.machine =
      TRY(spec::from_object<MachineConfig>(spec::describe(saved.attached, spec::Sides::guest)));
  return saved;
}

}  // namespace

bool GivenMachine::has(std::string_view key) const {
  return std::ranges::find(keys, key) != keys.end();
}

Result<void> take_file(GivenMachine& given, const std::string& path) {
  return take_text(given, TRY(read_text_file(path)), fmt::format("configuration '{}'", path));
}

Result<void> take_text(GivenMachine& given, const std::string& text, const std::string& what) {
  const auto taken = take_json(given, text);
  if (!taken) return fail("{}: {}", what, taken.error().message());
  return {};
}

std::vector<spec::Key> component_keys() {
  MachineConfig unused;
  std::vector<spec::Key> keys;
  const auto fields = fields_of(unused);
  for (const auto& field : fields.all()) {
    if (field.key.side == spec::Side::both) keys.push_back(field.key);
  }
  return keys;
}

Result<void> take_option(GivenMachine& given, std::string_view key, std::string_view word) {
  const auto fields = fields_of(given.machine);
  const auto* field = fields.find(key);
  if (field == nullptr) return fail("unknown option '--{}'", key);
  given.keys.emplace_back(key);
  auto set = spec::Fields::set_word(*field, word);
  const auto type = field->item.type;
  // A component says itself what it is.
  if (set || type == spec::Type::list || type == spec::Type::object) return set;
  return fail("--{}: {}", key, set.error().message());
}

Result<MachineConfig> to_machine(const GivenMachine& given, Kernel kernel) {
  auto machine = given.machine;
  if (machine.kernel.empty() && kernel == Kernel::required) {
    return fail("a kernel is missing: --kernel PATH ({})", arch::kKernelKinds);
  }
  TRY(check_memory(machine.memory));
  for (const auto& kind : device_kinds()) {
    // A restored machine's devices find what they are connected to later.
    if (kind.check != nullptr && kernel == Kernel::required) TRY(kind.check(machine));
    if (kind.tidy != nullptr) kind.tidy(machine);
  }
  return machine;
}

Result<std::string> to_json_text(const MachineConfig& machine) {
  return to_versioned_json(spec::describe(machine));
}

Result<snapshot::MachineTexts> to_manifest_texts(MachineConfig machine) {
  make_paths_absolute(machine);
  return snapshot::MachineTexts{TRY(to_versioned_json(spec::describe(machine, spec::Sides::guest))),
                                TRY(to_versioned_json(spec::describe(machine, spec::Sides::host)))};
}

Result<std::string> to_attachment(std::string_view component, std::string_view words) {
  const auto found = component_named(component);
  if (!found) return fail("no component is called '{}': blk0, net0 and vsock are", component);
  MachineConfig machine;
  spec::Fields fields("machine");
  found->kind->declare(machine, fields);
  const auto& field = fields.all().front();
  TRY(spec::Fields::set_word(field, words));
  make_paths_absolute(machine);
  auto value = field.item.get();
  if (const auto* list = value.as<spec::List>()) value = spec::Value(list->at(0));
  return spec::to_json(value);
}

Result<SavedMachine> from_manifest_texts(const snapshot::MachineTexts& texts,
                                         const std::string& what) {
  auto saved = from_texts(texts);
  if (!saved) return fail("{}: {}", what, saved.error().message());
  return saved;
}

}  // namespace vmm::config
