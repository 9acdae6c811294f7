#include "src/cli/config/restored_machine.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "src/base/file_time.h"
#include "src/base/text.h"
#include "src/disk/qcow2/chain.h"
#include "src/hypervisor/machine/device_kinds.h"
#include "src/hypervisor/snapshot/disk_file.h"
#include "src/hypervisor/snapshot/origin.h"

namespace vmm::config {
namespace {

// What the snapshot says, and nobody else.
constexpr std::array<std::string_view, 3> kFixed = {"append", "mem", "cpus"};

// ---- what the person says of disks

struct GivenDisks {
  std::vector<std::string> layers;      // where the machine's own copies are made
  std::vector<disk::DiskConfig> named;  // their ids say which disks they are
};

// "blk1=PATH" on the command line is a path with an equals sign; here it names a disk.
void take_id(disk::DiskConfig& disk) {
  constexpr std::string_view kPrefix = "blk";
  const auto equals = disk.path.find('=');
  if (!disk.id.empty() || !disk.path.starts_with(kPrefix) || equals == std::string::npos) return;
  const auto number = std::string_view(disk.path).substr(0, equals).substr(kPrefix.size());
  if (number.empty() || number.find_first_not_of("0123456789") != std::string::npos) return;
  disk.id = disk.path.substr(0, equals);
  disk.path.erase(0, equals + 1);
}

Result<GivenDisks> sort_given(const std::vector<disk::DiskConfig>& disks) {
  GivenDisks given;
  for (auto disk : disks) {
    take_id(disk);
    if (disk.id.empty()) {
      if (disk.path.empty() || disk != disk::DiskConfig{.path = disk.path}) {
        return fail(
            "--disk {}: with --restore it is a path alone, where the machine's own copy of the "
            "disk is to be made, or blkN=PATH",
            disk.path);
      }
      given.layers.push_back(disk.path);
      continue;
    }
    if (disk.path.empty()) return fail("--disk {}=: a path is missing", disk.id);
    if (std::ranges::find(given.named, disk.id, &disk::DiskConfig::id) != given.named.end()) {
      return fail("--disk names {} twice", disk.id);
    }
    given.named.push_back(std::move(disk));
  }
  return given;
}

std::string disk_name(std::size_t index) { return fmt::format("blk{}", index); }

// Of each disk of the machine; null: a slot that was empty.
Result<std::vector<const snapshot::DiskEntry*>> disk_entries(
    const snapshot::Source& snapshot, const std::vector<disk::DiskConfig>& disks) {
  const auto& entries = snapshot.manifest().disks;
  std::vector<const snapshot::DiskEntry*> found;
  std::size_t next = 0;
  for (std::size_t i = 0; i < disks.size(); ++i) {
    const bool is_there = next < entries.size();
    const bool is_empty = disks[i].is_slot() && !(is_there && entries[next].device == disk_name(i));
    if (!is_empty && !is_there) break;
    found.push_back(is_empty ? nullptr : &entries[next++]);
  }
  if (found.size() == disks.size() && next == entries.size()) return found;
  return fail("snapshot '{}' has {} disks, its configuration names {}", snapshot.path(),
              entries.size(), disks.size());
}

Result<SavedMachine> machine_in(const snapshot::Source& snapshot) {
  const auto& manifest = snapshot.manifest();
  auto saved =
      TRY(from_manifest_texts({manifest.config, manifest.attachments},
                              fmt::format("the configuration in snapshot '{}'", snapshot.path())));
  for (const auto& kind : device_kinds()) {
    const bool is_said = std::ranges::find(saved.keys, kind.name) != saved.keys.end();
    if (kind.add_unsaid == nullptr || is_said || !snapshot.sections().has(kind.name)) continue;
    kind.add_unsaid(saved.machine);
    kind.add_unsaid(saved.attached);
  }
  return saved;
}

bool is_there(const std::string& path) { return ::access(path.c_str(), R_OK) == 0; }

// ---- the parts

class Restoring {
 public:
  Restoring(const snapshot::Source& snapshot, const GivenMachine& given, As as)
      : snapshot_(snapshot), given_(given), same_(as == As::same) {}

  Result<RestoredMachine> run() {
    TRY(check_fixed());
    const auto& mine = given_.machine;
    auto saved = TRY(machine_in(snapshot_));
    attached_ = std::move(saved.attached);
    config_ = same_ ? attached_ : saved.machine;
    // A guest that resets boots what the person named, or else what the snapshot has.
    if (given_.has("kernel")) {
      config_.kernel = mine.kernel;
      config_.initrd = mine.initrd;
    } else if (!snapshot_.manifest().boot.empty() || !is_there(config_.kernel)) {
      if (same_) {
        kernel_ = config_.kernel;
        initrd_ = config_.initrd;
      }
      config_.kernel.clear();
      config_.initrd.clear();
    }
    if (given_.has("name")) config_.name = mine.name;
    if (given_.has("control")) config_.control = mine.control;
    if (given_.has("serial")) config_.serial = mine.serial;
    if (given_.has("reboot")) config_.reboot = mine.reboot;
    TRY(connect_devices());
    TRY(connect_disks());
    return RestoredMachine{.config = std::move(config_),
                           .unconnected = std::move(unconnected_),
                           .kernel = std::move(kernel_),
                           .initrd = std::move(initrd_),
                           .attached = std::move(filled_)};
  }

 private:
  Result<void> check_fixed() const {
    for (const auto key : kFixed) {
      if (!given_.has(key)) continue;
      return fail("--{} does not go with --{}: the snapshot says it", key,
                  same_ ? "resume" : "restore");
    }
    if (same_ && !snapshot::is_from_here(snapshot_.path(), snapshot_.digest())) {
      return fail(
          "snapshot '{}' was not saved by this user on this host: --restore makes a copy "
          "of it",
          snapshot_.path());
    }
    if (!given_.machine.initrd.empty() && given_.machine.kernel.empty()) {
      return fail("--initrd goes with --kernel: what a restored guest boots when it resets");
    }
    return {};
  }

  Result<void> connect_devices() {
    const Reconnection to{.given = given_.machine,
                          .attached = attached_,
                          .same = same_,
                          .snapshot = snapshot_.path(),
                          .unconnected = unconnected_};
    for (const auto& kind : device_kinds()) {
      const bool has_one = kind.number == DeviceKind::Number::one;
      if (has_one && kind.count(given_.machine) > 0 && kind.count(config_) == 0) {
        return lacks(kind.name);
      }
      if (kind.reconnect != nullptr) TRY(kind.reconnect(to, config_));
    }
    return {};
  }

  Result<void> connect_disks() {
    given_disks_ = TRY(sort_given(given_.machine.disks));
    auto& disks = config_.disks;
    const auto entries = TRY(disk_entries(snapshot_, disks));
    for (std::size_t i = 0; i < disks.size(); ++i) {
      disks[i].id.clear();
      const auto* entry = entries[i];
      if (const auto* given = given_for(i); given != nullptr && disks[i].is_slot()) {
        auto filled = TRY(disk::fill_slot(disks[i], *given));
        TRY(check_writable(disks[i], *given));
        disks[i] = std::move(filled);
        filled_.insert(disk_name(i));
      } else if (entry != nullptr) {
        TRY(connect_disk(*entry, disks[i], attached_.disks[i]));
      } else {
        disks[i] = disk::empty_slot(disks[i]);
      }
    }
    if (!given_disks_.layers.empty() && given_disks_.layers.size() != layers_) {
      return fail("{} times --disk, but snapshot '{}' has {} disk{} of its own",
                  given_disks_.layers.size(), snapshot_.path(), layers_, layers_ == 1 ? "" : "s");
    }
    for (const auto& named : given_disks_.named) {
      if (is_slot(named.id)) continue;
      const auto* entry = snapshot_.manifest().disk(named.id);
      if (entry != nullptr && entry->file.empty()) continue;
      return fail("--disk {}={}: snapshot '{}' {}", named.id, named.path, snapshot_.path(),
                  entry == nullptr ? "has no such disk" : "has a copy of that disk itself");
    }
    return {};
  }

  // Whoever made the snapshot does not say that a file of this person's is written to.
  Result<void> check_writable(const disk::DiskConfig& slot, const disk::DiskConfig& given) const {
    if (slot.read_only || given.may_write || given.scratch) return {};
    if (snapshot::is_from_here(snapshot_.path(), snapshot_.digest())) return {};
    return fail(
        "--disk {}={}: the guest of snapshot '{}', which was not saved by this user on this host, "
        "may write to that disk: allow it with ,rw",
        given.id, given.path, snapshot_.path());
  }

  const disk::DiskConfig* given_for(std::size_t index) const {
    const auto found =
        std::ranges::find(given_disks_.named, disk_name(index), &disk::DiskConfig::id);
    return found == given_disks_.named.end() ? nullptr : &*found;
  }
  bool is_slot(const std::string& name) const {
    for (std::size_t i = 0; i < config_.disks.size(); ++i) {
      if (disk_name(i) == name) return config_.disks[i].is_slot();
    }
    return false;
  }

  // `attached`: what the manifest notes of it.
  Result<void> connect_disk(const snapshot::DiskEntry& entry, disk::DiskConfig& disk,
                            const disk::DiskConfig& attached) {
    if (entry.file.empty()) return connect_named(entry, disk);
    const bool own =
        same_ && given_disks_.layers.empty() && entry.modified_ns != 0 && !attached.scratch;
    return own ? connect_own(entry, disk) : connect_copy(entry, disk);
  }

  // The file that the machine wrote to, with the content that it had.
  Result<void> connect_own(const snapshot::DiskEntry& entry, disk::DiskConfig& disk) const {
    disk.path = entry.path;
    struct stat status{};
    if (::stat(disk.path.c_str(), &status) < 0) return fail_errno("disk '{}'", disk.path);
    if (nanoseconds(status.st_mtim) == entry.modified_ns) return {};
    return fail(
        "disk '{}' has changed since snapshot '{}' was saved: --disk PATH goes on from the "
        "snapshot's copy and keeps there, in a new image, what is written",
        disk.path, snapshot_.path());
  }

  // A copy is what the manifest says, whatever its first bytes are: the guest wrote them. It stays
  // as it is.
  Result<void> connect_copy(const snapshot::DiskEntry& entry, disk::DiskConfig& disk) {
    auto file = snapshot_.disk_file(entry);
    disk.path = std::move(file.path);
    disk.label = std::move(file.label);
    disk.format = snapshot::image_format(entry);
    if (disk.read_only && !file.is_private) return {};  // nothing is written to it
    disk.scratch = !file.is_private;
    if (!given_disks_.layers.empty() && file.is_private) {
      return fail(
          "--disk {}: a machine that runs from an archive keeps nothing; "
          "`vmm snapshot import` makes a directory of '{}'",
          given_disks_.layers.front(), snapshot_.path());
    }
    if (layers_ < given_disks_.layers.size()) disk.layer = given_disks_.layers[layers_];
    ++layers_;
    return {};
  }

  Result<void> connect_named(const snapshot::DiskEntry& entry, disk::DiskConfig& disk) {
    const auto named = std::ranges::find(given_disks_.named, entry.device, &disk::DiskConfig::id);
    const bool has_format = disk.format != disk::ImageFormat::automatic;
    if (same_ && named == given_disks_.named.end()) {
      disk.path = entry.path;
      return check_named(entry, disk);
    }
    if (named == given_disks_.named.end()) {
      return fail(
          "snapshot '{}' has no copy of its read-only disk '{}': say which file it is with --disk "
          "{}=PATH{}",
          snapshot_.path(), printable_line(entry.path), printable_line(entry.device),
          has_format ? "" : ",format=raw or ,format=qcow2");
    }
    const disk::DiskConfig plain{.id = named->id,
                                 .path = named->path,
                                 .format = named->format,
                                 .read_only = named->read_only};
    if (*named != plain) {
      return fail("--disk {}={}: only format=raw or format=qcow2 can be said with it", named->id,
                  named->path);
    }
    if (named->format != disk::ImageFormat::automatic) disk.format = named->format;
    if (disk.format == disk::ImageFormat::automatic) {
      return fail("--disk {}={}: what the file is must be said, too: ,format=raw or ,format=qcow2",
                  named->id, named->path);
    }
    disk.path = named->path;
    disk.read_only = true;
    disk.scratch = false;
    return check_named(entry, disk);
  }

  // It must be the file that the guest knows; its size is compared with the device's state.
  Result<void> check_named(const snapshot::DiskEntry& entry, const disk::DiskConfig& disk) const {
    struct stat status{};
    if (::stat(disk.path.c_str(), &status) < 0) return fail_errno("disk '{}'", disk.path);
    if (nanoseconds(status.st_mtim) != entry.modified_ns) {
      return fail("disk '{}' was changed since snapshot '{}' was made of a machine with it",
                  disk.path, snapshot_.path());
    }
    return {};
  }

  std::unexpected<Error> lacks(std::string_view device) const {
    return fail("--{}: the machine in snapshot '{}' has no {} device", device, snapshot_.path(),
                device);
  }

  const snapshot::Source& snapshot_;
  const GivenMachine& given_;
  const bool same_;
  GivenDisks given_disks_;
  std::size_t layers_ = 0;  // disks that are written to, so far
  MachineConfig config_;
  MachineConfig attached_;  // as the manifest notes it
  std::vector<std::string> unconnected_;
  std::string kernel_, initrd_;  // that were booted, of the same machine
  std::set<std::string> filled_;
};

}  // namespace

Result<RestoredMachine> restored_machine(const snapshot::Source& snapshot,
                                         const GivenMachine& given, As as) {
  return Restoring(snapshot, given, as).run();
}

Result<MachineConfig> own_connections(const snapshot::Source& snapshot) {
  const auto [machine, attached, unused] = TRY(machine_in(snapshot));
  MachineConfig own;
  const auto entries = TRY(disk_entries(snapshot, machine.disks));
  for (std::size_t i = 0; i < machine.disks.size(); ++i) {
    const auto* entry = entries[i];
    if (entry == nullptr || !entry->file.empty()) continue;
    auto format = machine.disks[i].format;
    if (format == disk::ImageFormat::automatic) {
      format = TRY(disk::qcow2::probe_format(entry->path));
    }
    own.disks.push_back({.id = entry->device, .path = entry->path, .format = format});
  }
  for (const auto& kind : device_kinds()) {
    if (kind.give_own != nullptr) kind.give_own(machine, attached, own);
  }
  return own;
}

}  // namespace vmm::config
