// What packer, layer and unpacker share: paths within a root, names of a directory, attributes.
#pragma once

#include <sys/stat.h>

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/protocol/files.h"

namespace vmm::files {

using protocol::files::Change;
using protocol::files::End;
using protocol::files::Entry;
using protocol::files::Piece;
using protocol::files::Xattr;

inline constexpr std::size_t kMaxPath = 4096;  // PATH_MAX

// openat2(2) with O_CLOEXEC added; `resolve` is RESOLVE_*. Error with errno as its code.
Result<UniqueFd> open_within(int directory, const std::string& path, int flags,
                             std::uint64_t resolve);
// As a process whose root `root` is would open it: no link leads out of it.
Result<UniqueFd> open_in_root(int root, const std::string& path, int flags);

// Sorted, without "." and "..".
Result<std::set<std::string>> names_in(int directory);

// "a/./b" as its parts. Error: it is absolute, too long, or has "..".
Result<std::vector<std::string>> parts_of_name(std::string_view name);
std::string join(const std::vector<std::string>& parts, std::size_t count);

// Attributes, but no name, size, target or extended attributes.
Entry entry_of(const struct stat& status);

}  // namespace vmm::files
