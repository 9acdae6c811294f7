// Export: a snapshot becomes one file, in which no page is twice (FORMAT.md, "An archive").
//
//   const auto reader = TRY(Reader::open("/snapshots/seeded", Verify::sealed, Hosts::any));
//   const auto made = TRY(export_snapshot(*reader, "seeded.vmm", {}));
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/hypervisor/snapshot/reader.h"

namespace vmm::snapshot {

// What the new archive builds on: pages that it has are not stored again.
struct ExportBase {
  std::string since;               // an archive, or empty
  std::vector<std::string> bases;  // what that one builds on itself
};

struct Exported {
  std::string snapshot;      // digest of the manifest in it
  std::string digest;        // of the archive
  std::uint64_t pages = 0;   // that are not zero
  std::uint64_t stored = 0;  // pages in the archive
  std::uint64_t bytes = 0;   // of the file
};

// The same snapshot makes the same bytes, wherever. Parents are merged, read-only disks that are
// referred to become files of the snapshot. `file` appears when it is whole, and replaces nothing.
// Cancelled, it leaves nothing.
Result<Exported> export_snapshot(const Reader& reader, const std::string& file,
                                 const ExportBase& base, Progress& progress = Progress::none());

}  // namespace vmm::snapshot
