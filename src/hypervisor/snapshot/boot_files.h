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
  // When they had changed last, as they were opened: who writes over a file changes what is read
  // here.
  std::int64_t kernel_modified_ns = 0, initrd_modified_ns = 0;
};

// The regular files of these paths; without an initrd where its path is empty. The errors name
// them.
Result<BootFiles> open_boot_files(const std::string& kernel, const std::string& initrd);

// Sets the times of those that are open.
void note_times(BootFiles& files);
// Bytes of both.
std::uint64_t boot_size(const BootFiles& files);
// Their copies in the directory that is written, synced; none when one of them was written over
// since it was opened. What `parent` (null: none) has, too, is left to it. `progress` advances by
// twice boot_size(), or less.
Result<std::vector<BootFile>> keep_boot_files(const Writer& writer, const BootFiles& files,
                                              const Manifest* parent,
                                              Progress& progress = Progress::none());

}  // namespace vmm::snapshot
