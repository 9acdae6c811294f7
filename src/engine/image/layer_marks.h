// What a layer's EROFS image says besides files: how it changes the layers below it. Attributes of
// these names never come from an archive.
#pragma once

#include <string_view>

#include "src/engine/erofs/tree.h"

namespace vmm::engine {

// As overlayfs has it: a character device 0/0 hides what is below it, a directory with the mark is
// not merged with the one below.
inline constexpr std::string_view kOverlayPrefix = "trusted.overlay.";
inline constexpr std::string_view kOpaque = "trusted.overlay.opaque";
inline constexpr std::string_view kOpaqueValue = "y";

// A directory that the archive has only by its files' names: the one below keeps its attributes,
// and a symbolic link below is followed.
inline constexpr std::string_view kVmmPrefix = "trusted.vmm.";
inline constexpr std::string_view kImplied = "trusted.vmm.implied";
// A hard link to a file of the layers below; the value is its path. The inode is an empty file.
inline constexpr std::string_view kLink = "trusted.vmm.link";

inline bool is_whiteout(const erofs::Inode& inode) {
  return S_ISCHR(inode.mode) && inode.rdev == 0;
}

}  // namespace vmm::engine
