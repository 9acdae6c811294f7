// Writes the memory of a suspended machine as a snapshot's file: in this process, or by a fork of
// it, whose memory stays as it was while the guest runs on.
//
//   auto writer = TRY(ForkedWriter::start(memory_to_write));   // the machine may go on now
//   const auto layer = TRY(writer.wait(progress));
#pragma once

#include <string>
#include <vector>

#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/snapshot/memory_layer.h"

namespace vmm {

struct MemoryToWrite {
  const GuestMemory& memory;
  const GuestMemory* parent = nullptr;           // of an incremental snapshot
  std::span<const snapshot::Extent> candidates;  // of an incremental snapshot: may differ from it
  int file = -1;                                 // fresh
  std::string path;                              // of the file, for errors
};

// "writing memory".
Result<snapshot::MemoryLayer> write_memory(const MemoryToWrite& what, Progress& progress);

// A child of this process; killed, unless it has ended, when this goes.
class ForkedWriter {
 public:
  static Result<ForkedWriter> start(const MemoryToWrite& what);
  ForkedWriter(ForkedWriter&&) noexcept = default;
  ForkedWriter& operator=(ForkedWriter&&) = delete;
  ~ForkedWriter();

  // Once. Error: the child's, or it was killed, or cancelled.
  Result<snapshot::MemoryLayer> wait(Progress& progress);

 private:
  ForkedWriter(UniqueFd process, UniqueFd result)
      : process_(std::move(process)), result_(std::move(result)) {}
  // Whether it ended as it should.
  bool reap();

  UniqueFd process_;  // a pidfd
  UniqueFd result_;   // the reading end of its pipe
};

// Brings a sparse file to stable storage, a piece at a time, so that a cancel is heard soon:
// "syncing memory".
Result<void> sync_sparse(int fd, std::uint64_t size, Progress& progress);

}  // namespace vmm
