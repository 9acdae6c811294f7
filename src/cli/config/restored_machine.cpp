#include "src/cli/config/restored_machine.h"

#include <array>
#include <tuple>

#include "src/hypervisor/snapshot/disk_file.h"

namespace vmm::config {
namespace {

struct Fixed {
  const char* option;
  std::optional<std::string> MachineOptions::* member;
};
constexpr std::array<Fixed, 5> kFixed = {{{"--kernel", &MachineOptions::kernel},
                                          {"--initrd", &MachineOptions::initrd},
                                          {"--append", &MachineOptions::append},
                                          {"--mem", &MachineOptions::memory},
                                          {"--cpus", &MachineOptions::cpus}}};

Result<std::string> layer_path(const std::string& text) {
  if (text.empty() || text.find(',') != std::string::npos) {
    return fail(
        "--disk {}: with --restore it is a path alone, where the machine's own copy of the "
        "disk is to be made",
        text);
  }
  return text;
}

}  // namespace

Result<MachineOptions> restored_options(const snapshot::Source& snapshot,
                                        const MachineOptions& overrides) {
  for (const auto& fixed : kFixed) {
    if (overrides.*fixed.member) {
      return fail("{} does not go with --restore: the snapshot says it", fixed.option);
    }
  }
  auto options =
      TRY(parse_config_text(snapshot.manifest().config,
                            fmt::format("the configuration in snapshot '{}'", snapshot.path())));
  options.name.reset();
  options.control.reset();
  options.serial.reset();
  auto given = overrides;
  given.disks.clear();
  if (!given.nets.empty()) {
    if (given.nets.size() != options.nets.size()) {
      return fail("{} times --net, but the machine in snapshot '{}' has {} network cards",
                  given.nets.size(), snapshot.path(), options.nets.size());
    }
    options.nets = std::exchange(given.nets, {});
  }
  // Before there was a key for it, every machine had one.
  if (!options.rng && snapshot.sections().has("rng")) options.rng = true;
  const std::array<std::tuple<const char*, bool, bool>, 3> devices = {
      {{"vsock", given.vsock.has_value(), options.vsock.has_value()},
       {"balloon", given.balloon.value_or(false), options.balloon.value_or(false)},
       {"rng", given.rng.value_or(false), options.rng.value_or(false)}}};
  for (const auto& [name, wanted, there] : devices) {
    if (wanted && !there) {
      return fail("--{}: the machine in snapshot '{}' has no {} device", name, snapshot.path(),
                  name);
    }
  }
  given.balloon = options.balloon;
  given.rng = options.rng;
  options.override_with(given);
  return options;
}

Result<MachineConfig> restored_config(const snapshot::Source& snapshot,
                                      const MachineOptions& options,
                                      std::span<const std::string> disk_copies) {
  auto config = TRY(to_config(options));
  const auto& disks = snapshot.manifest().disks;
  if (disks.size() != config.disks.size()) {
    return fail("snapshot '{}' has {} disks, its configuration names {}", snapshot.path(),
                disks.size(), config.disks.size());
  }
  std::size_t copies = 0;
  for (std::size_t i = 0; i < disks.size(); ++i) {
    auto& disk = config.disks[i];
    auto file = snapshot.disk_file(disks[i]);
    disk.path = std::move(file.path);
    disk.label = std::move(file.label);
    if (disks[i].file.empty()) continue;  // what the user had, as the user said
    // A copy is what the manifest says, whatever its first bytes are: the guest wrote them. It
    // stays as it is.
    disk.format = snapshot::image_format(disks[i]);
    if (disk.read_only && !file.is_private) continue;  // nothing is written to it
    disk.scratch = !file.is_private;
    if (!disk_copies.empty() && file.is_private) {
      return fail(
          "--disk {}: a machine that runs from an archive keeps nothing; "
          "`vmm snapshot import` makes a directory of '{}'",
          disk_copies.front(), snapshot.path());
    }
    if (copies < disk_copies.size()) disk.layer = TRY(layer_path(disk_copies[copies]));
    ++copies;
  }
  if (!disk_copies.empty() && disk_copies.size() != copies) {
    return fail("{} times --disk, but snapshot '{}' has {} disk{} of its own", disk_copies.size(),
                snapshot.path(), copies, copies == 1 ? "" : "s");
  }
  return config;
}

}  // namespace vmm::config
