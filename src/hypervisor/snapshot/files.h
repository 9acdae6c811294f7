// The files of a snapshot's directory, which may come from anybody: what is opened is a regular
// file of it, never followed to elsewhere nor waited for. And those that are known by their names
// when there is no manifest: what a killed save or removal left.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/hypervisor/snapshot/manifest.h"

namespace vmm::snapshot {

// For reading. The error names the file; its code() is ENOENT where there is none.
Result<UniqueFd> open_part(const std::string& directory, std::string_view name);
// All of it. Error: it has more than `limit` bytes, too.
Result<std::string> read_part(const std::string& directory, std::string_view name,
                              std::size_t limit);

// The manifest, the states, the memory, kernel and initrd, and what stands beside them.
bool is_fixed_name(std::string_view name);
// One of those, `blkN.img` or `blkN.qcow2`.
bool is_own_name(std::string_view name);

struct ListedFile {
  std::string name;
  bool regular = false;
};
// What a directory has, but for itself and its parent.
Result<std::vector<ListedFile>> list_files(int directory, const std::string& path);

// NAME.partial: where a save works, locked, before its snapshot has its name. It belongs to the
// user of this process, and has nothing in it but regular files that a save makes.
inline constexpr std::string_view kPartialSuffix = ".partial";

// Opens and locks it, whoever made it. The error's code() is EWOULDBLOCK when a save works in it.
Result<UniqueFd> lock_partial(const std::string& path);
// Removes what a killed save left in it. Error: there is something else; nothing was removed then.
Result<void> clear_partial(int directory, const std::string& path);

// The directory that `path` names something in, through symbolic links and `..` as the kernel goes,
// and that name: "link/../x" is not "x". Error: there is no such directory, or no name.
Result<std::string> real_path_of_new(const std::string& path);

}  // namespace vmm::snapshot
