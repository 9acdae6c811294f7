// The seal of a snapshot's directory: what its large files looked like to the file system when they
// were written. While that has not changed, nobody wrote to them, and a restore need not read
// hundreds of megabytes to compare digests. A copied or altered file does not fit the seal, and is
// then read and compared. The seal is no part of the snapshot: it need not be there.
#pragma once

#include <string>
#include <vector>

#include "src/base/result.h"

namespace vmm::snapshot {

inline constexpr std::string_view kSealFile = "seal";

// Of these files of a directory; one that cannot be examined is left out.
std::string make_seal(const std::string& directory, const std::vector<std::string>& files);
// Whether the file is as the seal of its directory says.
bool is_sealed(const std::string& directory, const std::string& file);

}  // namespace vmm::snapshot
