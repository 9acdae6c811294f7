// What a guest boots when it resets: kernel and initrd, which a snapshot keeps copies of, so that a
// restored machine boots what the saved one did, whatever became of the files since.
#pragma once

#include <string>
#include <vector>

#include "src/base/progress.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/snapshot/manifest.h"

namespace vmm::snapshot {

class Writer;

// Open for reading. Without a kernel nothing boots; a machine may have no initrd.
struct BootFiles {
  UniqueFd kernel, initrd;
};

// The regular files of these paths; without an initrd where its path is empty. The errors name
// them.
Result<BootFiles> open_boot_files(const std::string& kernel, const std::string& initrd);

// Their copies in the directory that is written, synced. What `parent` (null: none) has, too, is
// left to it.
Result<std::vector<BootFile>> keep_boot_files(const Writer& writer, const BootFiles& files,
                                              const Manifest* parent,
                                              Progress& progress = Progress::none());

}  // namespace vmm::snapshot
