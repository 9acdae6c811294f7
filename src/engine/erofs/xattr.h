// Extended attributes as EROFS has them: a prefix by number, and the rest of the name.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "src/engine/erofs/tree.h"

namespace vmm::erofs {

// Whether its prefix is one that Linux reads from a file system, and its sizes fit.
bool can_store(const Xattr& xattr);
// Bytes behind the inode: 0, or with the header a multiple of 4.
std::size_t xattr_size(const std::vector<Xattr>& xattrs);
void encode_xattrs(const std::vector<Xattr>& xattrs, std::span<std::byte> out);
// Error: they are damaged.
Result<std::vector<Xattr>> decode_xattrs(std::span<const std::byte> in);

}  // namespace vmm::erofs
