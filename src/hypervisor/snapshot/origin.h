// Origin: whether a snapshot was made by this user on this host, so that what its manifest notes of
// the host may be used again (--resume). A file of its directory and no part of the snapshot: the
// HMAC-SHA256 of the manifest's digest, under a key that only this user has and that no snapshot
// holds: $XDG_STATE_HOME/vmm/origin-key, made with the first save. Nobody else can write the file,
// and an export, an import and a merge have none.
#pragma once

#include <string>

namespace vmm::snapshot {

inline constexpr std::string_view kOriginFile = "origin";

// What the file says; empty: there is no key, and none can be made.
std::string make_origin(const std::string& digest);
bool is_from_here(const std::string& directory, const std::string& digest);

}  // namespace vmm::snapshot
