// What `vmm --restore PATH` makes a machine from: the snapshot says what the guest sees, the person
// what of the host it is connected to. Nothing of the host is opened because a manifest names it:
// but for --resume, which makes the same machine of a snapshot of one's own.
//
//   auto restored = TRY(restored_machine(*source, given));
//   if (!restored.unconnected.empty()) ... one line to the person ...
//   Session::create(restored.config, ...);
#pragma once

#include <set>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/cli/config/given_machine.h"
#include "src/hypervisor/snapshot/source.h"

namespace vmm::config {

struct RestoredMachine {
  // Whatever of the host it names was named by the person, or is the snapshot's own file.
  MachineConfig config;
  // What the snapshot names and nobody else, with the option that connects it: "vsock to '/v'
  // (--vsock)".
  std::vector<std::string> unconnected;
  // Of the same machine: what it booted, by name, where `config` names none as the snapshot has it.
  std::string kernel, initrd;
  // Slots ("blk1") with a disk that the person put there, not the snapshot's.
  std::set<std::string> attached;
};

// `given`: what the person said. Networks other than `user` have no link and the vsock device
// nobody who answers, published ports are left out, unless --net and --vsock name them. Without
// --kernel a guest that resets boots the snapshot's own copy; of a snapshot that has none the
// machine ends then. `--disk PATH` says where what is written to a
// disk of the snapshot is kept, one for each; `--disk blkN=PATH` names the file of a read-only disk
// that the snapshot has no copy of, or fills a slot: one that is written to with `rw`, unless the
// snapshot was saved by this user on this host. What cannot change (memory, vCPUs) is refused.
//
// As the same machine it is connected to what the manifest notes, unless the person says otherwise,
// and writes to its own disks. That is refused of a snapshot that another user or host made, and
// when a disk has changed since.
enum class As : std::uint8_t { copy, same };
Result<RestoredMachine> restored_machine(const snapshot::Source& snapshot,
                                         const GivenMachine& given, As as = As::copy);

// What restores a machine of one's own with its read-only disks and `user` networks, as
// somebody would give it: to be used only where the names in the snapshot are the caller's.
Result<MachineConfig> own_connections(const snapshot::Source& snapshot);

}  // namespace vmm::config
