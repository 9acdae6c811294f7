// Saver: takes snapshots of a session's machine, one at a time, in two steps that both take long.
//
//   TRY(saver.begin(*machine, {.directory = "/snapshots/seeded"}, progress));   // 1.
//   const protocol::Saved saved = TRY(saver.complete(progress));                // 2.
//
//   1. the machine suspended, and nobody else's: states, what is to be copied, and either the
//      memory itself, or (live) a fork of this process, whose memory stays as it was at that moment
//   2. the guest running again: the fork's end, the copies of the disks, digests, the manifest, and
//      the rename that makes it a snapshot. The machine must not end meanwhile.
//
// Each on any thread. Where one fails or is cancelled, nothing of the snapshot is left.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/hypervisor/machine/machine.h"
#include "src/hypervisor/snapshot/boot_files.h"
#include "src/hypervisor/snapshot/memory_layer.h"
#include "src/hypervisor/snapshot/write_tracker.h"
#include "src/hypervisor/snapshot/writer.h"
#include "src/protocol/control.h"

namespace vmm::disk {
class CopiedDisk;
}

namespace vmm {

using SaveRequest = protocol::Snapshot;

class Saver {
 public:
  // `texts`: of the machine's configuration, for the manifest. `boot`: what its guest boots when it
  // resets; it must outlive this.
  Saver(snapshot::MachineTexts texts, const snapshot::BootFiles& boot);
  ~Saver();

  // The machine, suspended yet, came from the snapshot of that digest: incremental ones may build
  // on it. Devices `attached` have other disks than it has, which these copy whole.
  void restored_from(Machine& machine, std::string digest, const std::set<std::string>& attached);
  // Other ones, of what its devices are connected with. While no snapshot is taken.
  void set_texts(snapshot::MachineTexts texts) { texts_ = std::move(texts); }
  // Another machine has taken its place: nothing is known of it.
  void forget() {
    tracked_.clear();
    failed_.clear();
  }

  // The machine runs on when it returns, but where it did not run before or `stop` was asked.
  Result<void> begin(Machine& machine, const SaveRequest& request, Progress& progress);
  // After a begin() that succeeded. With `stop` the machine is still suspended.
  Result<protocol::Saved> complete(Progress& progress);
  // After a begin() that no complete() follows.
  void give_up();

 private:
  struct Job;
  Result<std::unique_ptr<Job>> make(Machine& machine, const SaveRequest& request,
                                    Progress& progress);
  Result<void> copy_disks(Machine& machine, Job& job);
  Result<void> copy_disk(const std::string& name, disk::CopiedDisk& disk, Job& job);
  Result<void> find_pages(Machine& machine, Job& job, Progress& progress);

  snapshot::MachineTexts texts_;
  const snapshot::BootFiles& boot_;
  // Digest of the snapshot since which it is known what was written to memory and disks; empty:
  // none.
  std::string tracked_;
  std::string failed_;  // the directory of a save that failed after tracked_ was lost, or empty
  snapshot::Tracking tracking_ = snapshot::Tracking::restored;
  snapshot::WriteTracker tracker_;
  std::unique_ptr<Job> job_;  // between the steps
};

}  // namespace vmm
