// Merge: a snapshot that builds on others becomes a complete one, under a new name.
//
//   const auto reader = TRY(Reader::open("/snapshots/third", Verify::sealed, Hosts::any));
//   const auto digest = TRY(merge(*reader, "/snapshots/alone"));
#pragma once

#include <string>
#include <vector>

#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/hypervisor/snapshot/reader.h"

namespace vmm::snapshot {

// The file `state` of the same machine without a parent.
Result<std::vector<std::byte>> complete_state(const Reader& reader);

// Memory and disks composed, complete disks copied (as clones where the file system can), digests
// anew. Returns the digest that names it. Read-only disks that are referred to stay so. Cancelled,
// it leaves nothing.
Result<std::string> merge(const Reader& reader, const std::string& directory,
                          Progress& progress = Progress::none());

// Bytes of a disk of a snapshot, composed of its layers, that are to be read.
Result<std::uint64_t> disk_data(const Reader& reader, const DiskEntry& disk, Progress& progress);

// The bytes of a file that are data, to a fresh one; holes stay holes.
// `progress` advances by sparse_size() of it.
Result<void> copy_sparse(int from, int to, std::uint64_t size,
                         Progress& progress = Progress::none());

}  // namespace vmm::snapshot
