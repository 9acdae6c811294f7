// The working set of a restored machine: the pages that its guest touched soon after the first
// restore. Later restores bring them in before the guest asks, many at a time, on a thread of their
// own (REAP, ASPLOS 2021). A hint beside the snapshot, no part of it: the file may be missing, one
// that does not fit is ignored, and it goes with the snapshot.
#pragma once

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
  std::string digest;  // of the snapshot
  std::vector<Extent> extents;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(1, digest);
    archive(2, state::former(extents));
    archive(3, state::flat(extents));
  }
};

// Writes down what of the memory, mapped from `directory`, is in use now. Error: no permission, or
// the snapshot is being removed.
Result<void> record_working_set(const GuestMemory& memory, const std::string& directory,
                                const std::string& digest);
// Nothing when there is none that fits.
std::vector<Extent> read_working_set(const std::string& directory, const std::string& digest,
                                     std::uint64_t memory_size);

// Brings pages of a memory in, from its making until it is done or destroyed.
class Prefetcher {
 public:
  // `memory` outlives it.
  Prefetcher(const GuestMemory& memory, std::vector<Extent> extents);
  ~Prefetcher();

 private:
  std::stop_source stop_;
  std::thread thread_;
};

}  // namespace vmm::snapshot
