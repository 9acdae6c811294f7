// Saver: takes snapshots of a session's machine.
//
//   saver.save(machine, {.directory = "/snapshots/seeded"}, [](Result<std::string> json) { ... });
//
// In two steps:
//
//   1. on the session's thread, the machine suspended: states, what is to be copied, and either the
//      memory itself, or (live) a fork of this process, whose memory stays as it was at that moment
//   2. on a thread of its own, the guest running again: the fork's end, the copies of the disks,
//      digests, the manifest, and the rename that makes it a snapshot
//
// One at a time. The machine must not end during the second step: settle() first.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "src/base/event_loop.h"
#include "src/base/result.h"
#include "src/hypervisor/machine/machine.h"
#include "src/hypervisor/snapshot/memory_layer.h"
#include "src/hypervisor/snapshot/write_tracker.h"
#include "src/hypervisor/snapshot/writer.h"

namespace vmm::disk {
class CopiedDisk;
}

namespace vmm {

struct SaveRequest {
  std::string directory;
  std::string parent;  // directory of an earlier snapshot of this machine; empty: none
  bool live = false;   // the guest runs on while its memory is written
  bool stop = false;   // the guest stays suspended
};

class Saver {
 public:
  // Called on the loop's thread; the JSON says what was done and how long it took.
  using Done = std::function<void(Result<std::string>)>;

  // `config_text`: the machine's configuration, for the manifest.
  Saver(EventLoop& loop, std::string config_text);
  ~Saver();  // settles

  // The machine, suspended yet, came from the snapshot of that digest: incremental ones may build
  // on it.
  void restored_from(Machine& machine, std::string digest);
  // Another machine has taken its place: nothing is known of it.
  void forget() { tracked_.clear(); }

  void save(Machine& machine, const SaveRequest& request, Done done);
  // Waits for the second step, if there is one, and calls its Done.
  void settle();
  // As settle(), without waiting for the copies.
  void cancel();

 private:
  struct Job;
  Result<std::unique_ptr<Job>> begin(Machine& machine, const SaveRequest& request);
  Result<void> copy_disks(Machine& machine, Job& job);
  Result<void> copy_disk(const std::string& name, disk::CopiedDisk& disk, Job& job);
  Result<void> find_pages(Machine& machine, Job& job);
  void track(const Job& job);
  void finish();

  EventLoop& loop_;
  const std::string config_text_;
  // Digest of the snapshot since which it is known what was written to memory and disks; empty:
  // none.
  std::string tracked_;
  snapshot::Tracking tracking_ = snapshot::Tracking::restored;
  snapshot::WriteTracker tracker_;
  std::unique_ptr<Job> job_;  // of the second step
  std::uint64_t jobs_ = 0;    // so far
  std::thread thread_;
};

}  // namespace vmm
