// Import: the snapshot in an archive becomes a directory again.
//
//   const auto made = TRY(import_archive("seeded.vmm", "/snapshots/seeded", {}));
#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/hypervisor/snapshot/archive.h"

namespace vmm::snapshot {

// `bases` are the archives that it builds on. All is compared, the archive's digest first, then
// those of the manifest, before the directory appears; of any architecture. Returns the digest
// that names the snapshot. Cancelled, it leaves nothing.
Result<std::string> import_archive(const std::string& file, const std::string& directory,
                                   std::span<const std::string> bases,
                                   Progress& progress = Progress::none());

// The same, without making anything.
Result<std::string> verify_archive(const std::string& file, std::span<const std::string> bases,
                                   Progress& progress = Progress::none());

// Whether there is room for what these files have, in the file system of `fd` (named `where`).
// Before anything is unpacked: a small archive may have any number of pages.
Result<void> check_room(int fd, std::span<const ArchiveFile> files, const std::string& where);

// Writes the pages of a file that are not zero, compared with its digest; null: compares only.
Result<void> unpack_file(PageStore& pages, const ArchiveFile& file, const std::string& digest,
                         const UniqueFd* out, Progress& progress = Progress::none());

// The file `state` in the last archive of a chain, compared with its digest.
Result<std::vector<std::byte>> read_state(const ArchiveChain& chain);

}  // namespace vmm::snapshot
