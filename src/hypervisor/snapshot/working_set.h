// The working set of a restored machine: the pages that its guest touched soon after the first
// restore. Later restores bring them in before the guest asks (REAP, ASPLOS 2021): the first ones
// before it runs, mapped for it where KVM can, so that it does not leave for each of them; the
// others many at a time, on a thread of their own. A hint beside the snapshot, no part of it: the
// file may be missing, one that does not fit is ignored, and it goes with the snapshot.
#pragma once

#include <functional>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/memory/guest_memory.h"
#include "src/hypervisor/snapshot/memory_layer.h"

namespace vmm::snapshot {

inline constexpr std::string_view kWorkingSetFile = "working-set";
// While it is written, under the directory's lock.
inline constexpr std::string_view kWorkingSetPartial = "working-set.partial";

struct WorkingSet {
  static constexpr std::string_view kKind = "working-set";
  static constexpr std::uint32_t kVersion = 1;
  std::string digest;           // of the snapshot
  std::vector<Extent> touched;  // and, but for gaps between them, not written: they stay shared
  std::vector<Extent> written;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, digest);
    archive(2, state::former(touched));
    archive(3, state::flat(touched));
    archive(4, state::flat(written));
  }
  bool empty() const { return touched.empty() && written.empty(); }
};

// Writes down what of the memory, mapped from `directory`, is in use now. Error: no permission, or
// the snapshot is being removed.
Result<void> record_working_set(const GuestMemory& memory, const std::string& directory,
                                const std::string& digest);
// Nothing when there is none that fits.
WorkingSet read_working_set(const std::string& directory, const std::string& digest,
                            std::uint64_t memory_size);

// Takes its first `bytes` out of the set, whole pages: written pages before others. What is left is
// only read: whoever started first must not say how much memory of their own all later ones have.
WorkingSet take_first(WorkingSet& set, std::uint64_t bytes);

// Brings them in, here. `map` hears of each piece that is in the host's memory then, a megabyte at
// most; false from it ends the work.
using MapForGuest = std::function<bool(GuestAddress base, std::uint64_t length)>;
void bring_in(const GuestMemory& memory, const WorkingSet& set, const MapForGuest& map);

// Brings them in on a thread of its own, from its making until it is done or destroyed.
class Prefetcher {
 public:
  // `memory` outlives it.
  Prefetcher(const GuestMemory& memory, WorkingSet set);
  ~Prefetcher();

 private:
  std::stop_source stop_;
  std::thread thread_;
};

}  // namespace vmm::snapshot
